"""Prints each query of a SQL file and the rows that DuckDB finds: python show.py [FILE.sql]"""

import sys
from pathlib import Path

import duckdb

path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo_queries.sql")
for query in filter(str.strip, path.read_text().split(";\n")):
    print(query.strip(), end=";\n")
    duckdb.sql(query).show(max_width=160)
