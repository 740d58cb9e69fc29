"""What Deepwell does with documents and questions. Names no vendor, opens no socket."""
