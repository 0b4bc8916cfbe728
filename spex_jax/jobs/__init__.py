"""What the commands of `spex` do: configuration in, files and text out."""
