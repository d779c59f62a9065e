from tests.bench.peers.results import Results
from pathlib import Path

def markdown(results): 
    return ""
def keep(results, docs, envs): ...
