"""What an operator sees of a recorder: doctor, status, metrics, the service manager, installation."""
