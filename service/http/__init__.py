"""What all resources share: authentication, bodies, problems, pages."""
