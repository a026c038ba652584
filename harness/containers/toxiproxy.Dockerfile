# Toxiproxy beside the nodes: its static binary on the nodes' base, whose layers they share, for the sake of its init.
ARG BASE
FROM ${BASE}
COPY toxiproxy-server /usr/bin/toxiproxy-server
CMD ["toxiproxy-server", "-host", "0.0.0.0"]
