"""What a configuration takes on devices that are not here: memory, communication, time."""
