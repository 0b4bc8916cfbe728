"""Many runs that survive anything: the same command goes on where a kill was.

grid   a configuration and its items, cut into shards with stable addresses
run    evaluates the shards of one task, and publishes each
state  what is done, failed, damaged; exports what is there
"""
