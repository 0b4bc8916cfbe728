"""Named settings of `spex`: one file each, with `get_config(size)`."""
