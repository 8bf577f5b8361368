"""The files that `adapt` leaves beside the weights, by name. Cost: none."""

FORMAT = "prefmerge-adapt/1"  # of RESULT
RESULT, HEAD, REPORT, RECEIPT = "adapt.json", "head.safetensors", "report.html", "receipt.json"
