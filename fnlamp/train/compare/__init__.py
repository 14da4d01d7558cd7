"""In what two training programs differ, from their descriptions."""
