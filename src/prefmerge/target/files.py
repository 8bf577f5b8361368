"""The files that `adapt` leaves beside the weights, by name. Cost: none."""

from prefmerge.report.place import REPORT as REPORT

FORMAT = "prefmerge-adapt/1"  # of RESULT
RESULT, HEAD, RECEIPT = "adapt.json", "head.safetensors", "receipt.json"
