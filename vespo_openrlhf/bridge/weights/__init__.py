"""The weights between the ranks and the engines: in pieces, sent, received, checked."""
