"""The names of the files that `adapt` leaves beside the weights. Cost: none."""

RESULT, HEAD, REPORT = "adapt.json", "head.safetensors", "report.html"
