"""Ways to run Image Mirror: `local`, Docker Compose, cron and Kubernetes."""
