"""What processes write down about models, machines and replicas in Redis: each kind of record has its store here."""
