#!/usr/bin/env python3
"""The key provider "shift" for tests: wraps by adding its parameter's length to each byte.

keyprovider.py base64|array: how it writes bytes. It reads both.
"""

import base64
import json
import sys


def read(value):
    return bytes(value) if isinstance(value, list) else base64.b64decode(value, validate=True)


def write(value):
    return list(value) if sys.argv[1] == "array" else base64.b64encode(value).decode()


def shift(config):
    # Go passes the parameters of every other recipient, too.
    return len(base64.b64decode(config["Parameters"]["shift"][0]))


request = json.load(sys.stdin)
if request["op"] == "keywrap":
    params = request["keywrapparams"]
    by = shift(params["ec"])
    wrapped = bytes((byte + by) % 256 for byte in read(params["optsdata"]))
    json.dump({"keywrapresults": {"annotation": write(wrapped)}}, sys.stdout)
else:
    params = request["keyunwrapparams"]
    by = shift(params["dc"])
    plain = bytes((byte - by) % 256 for byte in read(params["annotation"]))
    if not plain.startswith(b"{"):
        sys.exit("another parameter wrapped this packet")
    json.dump({"keyunwrapresults": {"optsdata": write(plain)}}, sys.stdout)
