"""A site's own will: what its file allows, and whether a job may run there. Knows no network and no Flower."""
