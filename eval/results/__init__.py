"""What a run leaves on disk: `folder` holds it, `lines` its files of records, `recorder` writes."""
