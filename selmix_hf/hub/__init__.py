"""What goes to the Hub: uploads, cards, a head alone."""
