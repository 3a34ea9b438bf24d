package configs

import (
	"slices"
	"time"
)

func (k *check) relay() {
	r := k.config.Relay
	k.choice("relay.mode", r.Mode)
	k.secretFile("relay.secret_file", r.SecretFile)
	if _, _, err := ParsePorts(r.Local.Ports); err != nil {
		k.bad("relay.local.ports", "is no range of ports, "+err.Error(), "write one such as 49152-65535")
	}
	k.networks("relay.local.allow_peers", r.Local.AllowPeers)
	k.networks("relay.local.deny_peers", r.Local.DenyPeers)
	k.rungs()
	if _, err := ParseDSCP(r.DSCP); err != nil {
		k.bad("relay.dscp", "is no DSCP name", `write one such as AF41 or EF, a number from 0 to 63, or "" for no mark`)
	}
	k.bandwidth("relay.max_bandwidth.per_allocation", r.MaxBandwidth.PerAllocation)
	k.bandwidth("relay.max_bandwidth.total", r.MaxBandwidth.Total)
	k.between("relay.queue.max_age", r.Queue.MaxAge, 20*time.Millisecond, 10*time.Second)
}

func (k *check) rungs() {
	rungs := k.config.Relay.Rungs
	if len(rungs) == 0 {
		k.bad("relay.rungs", "is empty, so that no region could be reached", "write udp, tcp, tls and proxy, or those that your firewall lets out")
	}
	for i, rung := range rungs {
		key := at("relay.rungs", i)
		k.choice(key, rung)
		if slices.Contains(rungs[:i], rung) {
			k.bad(key, "is there twice", "delete one of them")
		}
	}
}

func (k *check) bandwidth(key, text string) {
	if _, err := ParseBandwidth(text); err != nil {
		k.bad(key, "is no bandwidth, "+err.Error(), "write a whole number with its unit, such as 600kbit or 4mbit")
	}
}
