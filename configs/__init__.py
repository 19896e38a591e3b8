"""What a job is: the YAML files, their schema, and the command grammar all packages share."""
