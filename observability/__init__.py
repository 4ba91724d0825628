"""What watches Tessera: dashboards as code, rules, and the settings of Prometheus, Grafana and the collector of traces."""
