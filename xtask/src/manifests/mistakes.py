"""Reads {"schemas": [...], "objects": [[index of its schema, object], ...]} and prints a list of mistakes for each object."""

import json
import sys

from jsonschema import Draft7Validator

given = json.load(sys.stdin)
validators = [Draft7Validator(schema) for schema in given["schemas"]]


def mistakes(schema, value):
    errors = validators[schema].iter_errors(value)
    return sorted("/".join(["", *map(str, e.path)]) + ": " + e.message[:200] for e in errors)


json.dump([mistakes(*pair) for pair in given["objects"]], sys.stdout)
