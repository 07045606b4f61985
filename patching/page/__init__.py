"""Results as one HTML page. Imports the engine, explain/ and draw/."""
