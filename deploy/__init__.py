"""Ways to start Image Mirror: `local` for one machine, and files for Docker Compose, cron and Kubernetes."""
