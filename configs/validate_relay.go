package configs

import (
	"fmt"
	"slices"
	"time"
)

func (k *check) relay() {
	r := k.config.Relay
	k.choice("relay.mode", r.Mode)
	k.secretFile("relay.secret_file", r.SecretFile)
	k.relayLocal()
	k.relayTerminate()
	k.rungs()
	if _, err := ParseDSCP(r.DSCP); err != nil {
		k.bad("relay.dscp", "is no DSCP name", `write one such as AF41 or EF, a number from 0 to 63, or "" for no mark`)
	}
	k.bandwidth("relay.max_bandwidth.per_allocation", r.MaxBandwidth.PerAllocation)
	k.bandwidth("relay.max_bandwidth.total", r.MaxBandwidth.Total)
	k.between("relay.queue.max_age", r.Queue.MaxAge, 20*time.Millisecond, 10*time.Second)
}

// relayLocal checks the address and the ports that mode local relays from. Both have a default: the address that the client asked, and
// the dynamic ports of RFC 6335.
func (k *check) relayLocal() {
	local := k.config.Relay.Local
	if a := local.Address; a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
		k.bad("relay.local.address", "is no address that peers can send to", `write one of this machine's, or "" for the one that the client asked`)
	}
	low, high, err := ParsePorts(local.Ports)
	switch {
	case err != nil:
		k.bad("relay.local.ports", "is no range of ports, "+err.Error(), "write one such as 49152-65535")
	case low < 1024:
		k.bad("relay.local.ports", "begins at a port that belongs to the system's services", "write a range from 1024 on, such as 49152-65535")
	case k.config.Relay.Mode == "local" && high-low < minLocalPorts-1:
		k.bad("relay.local.ports", fmt.Sprintf("is a range of %d, and each call takes two ports or more", int(high)-int(low)+1), "write a wider one such as 49152-65535")
	}
	k.networks("relay.local.allow_peers", local.AllowPeers)
	k.networks("relay.local.deny_peers", local.DenyPeers)
}

// minLocalPorts is the least with which a handful of calls fit.
const minLocalPorts = 16

// relayTerminate asks for what mode terminate makes the allocations at the regions with.
func (k *check) relayTerminate() {
	if k.config.Relay.Mode != "terminate" {
		return
	}
	for i := range k.config.Services {
		if t := k.config.Services[i].TURNCredentials; t.SecretFile == "" && t.Username == "" && t.PasswordFile == "" && t.URL == "" {
			k.bad(at("services", i)+".turn_credentials", "is empty, but relay.mode terminate makes the allocations at this service's relays itself",
				"write the shared secret_file that the service gave you, a username with password_file, or a url that answers with ICE servers; or relay.mode: bridge")
		}
	}
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
