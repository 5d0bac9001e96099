"""A libtorrent source or sink on loopback, nothing else switched on.

torrent_pair.py seed FILE TORRENT plain|encrypted    prints its port, ends with its standard input
torrent_pair.py fetch PORT TORRENT FOLDER plain|encrypted
"""
import os
import sys
import time

import libtorrent as lt

role, encrypted = sys.argv[1], sys.argv[-1] == "encrypted"
policy = 0 if encrypted else 2  # pe_forced, pe_disabled
settings = {
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False, "listen_interfaces": "127.0.0.1:0",
    "allow_multiple_connections_per_ip": True, "alert_mask": 0, "aio_threads": 2, "hashing_threads": 2,
    "unchoke_slots_limit": 20, "out_enc_policy": policy, "in_enc_policy": policy,
    "allowed_enc_level": 2 if encrypted else 1, "prefer_rc4": encrypted,
}
session = lt.session(settings)
torrent = lt.torrent_info(sys.argv[3])
if role == "seed":
    handle = session.add_torrent({
        "ti": torrent, "save_path": os.path.dirname(sys.argv[2]), "flags": lt.torrent_flags.seed_mode,
    })
    while not handle.status().is_seeding:
        time.sleep(0.05)
    print(session.listen_port(), flush=True)
    sys.stdin.read()
else:
    handle = session.add_torrent({"ti": torrent, "save_path": sys.argv[4]})
    while handle.status().state != lt.torrent_status.downloading:
        time.sleep(0.005)
    handle.connect_peer(("127.0.0.1", int(sys.argv[2])))
    while not handle.status().is_seeding:
        time.sleep(0.01)
os._exit(0)
