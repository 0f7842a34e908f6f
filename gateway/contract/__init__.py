"""What both planes must compute alike. Pure: no clock, file, socket, random or grpc here."""
