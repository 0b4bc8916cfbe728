"""Runs a sweep on Kubernetes: `python -m launch.k8s --help`.

settings.py   what is asked for, and whether it can be
pods.py       one pod: its command, variables, devices and volumes
manifests.py  the Job, the JobSets and the ConfigMap around it
"""
