"""`ptsup verify`: what a live Prometheus and Grafana were seen to say, judged.

`ask` asks and never judges; `measure` knows what to ask and when; `checks` judges what was seen
and nothing else; `evidence` writes it down. What was not seen is never a PASS.
"""
