"""What docs/study says, from the committed runs to the tables and figures of its pages."""
