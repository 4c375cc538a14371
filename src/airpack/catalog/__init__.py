"""What a site holds and runs, in SQL. The only home of SQLAlchemy."""
