package configs

import (
	"net/netip"
	"time"
)

// Default returns the configuration that an empty file stands for. It is not valid by itself: a name and
// a service are the least that an administrator must say.
func Default() *Config {
	return &Config{
		Clients: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1/128"),
		Listen: Listen{
			HTTPS:   []string{":443"},
			Metrics: "127.0.0.1:9443",
		},
		TLS:   TLS{Source: "self-signed"},
		DNS:   DNS{ProxyResolves: "auto"},
		Relay: defaultRelay(),
		Limits: Limits{
			AllocationsPerUser:   40,
			AllocationsPerClient: 1000,
			Allocations:          4000,
			ConnectionsPerClient: 4000,
			PendingPerClient:     200,
		},
		Forward: Forward{Auth: "none", RequireSNIMatch: true},
		PAC:     PAC{ServiceFallback: "DIRECT", MaxAge: 5 * time.Minute},
		Precall: Precall{Mode: "advisory", History: 90 * 24 * time.Hour},
		Events:  Events{Mail: Mail{Weekly: true}},
		Audit:   Audit{FullAddresses: true, Retention: 90 * 24 * time.Hour},
		Drain:   time.Hour,
		Log:     Log{Level: "info", Format: "json"},
		DataDir: "/var/lib/hafen",
		RunDir:  "/run/hafen",
	}
}

func defaultRelay() Relay {
	return Relay{
		Mode:  "bridge",
		Local: RelayLocal{Ports: "49152-65535"},
		Rungs: []string{"udp", "tcp", "tls", "proxy"},
		DSCP:  "AF41",
		Queue: Queue{MaxAge: 250 * time.Millisecond},
	}
}

// defaultService and its like are what a list's member has where the file says nothing.
func defaultService() Service {
	return Service{Choose: "nearest", Probes: Probes{HTTPS: "/"}}
}

func defaultRegion() Region { return Region{Use: true} }

func defaultRoute() Route { return Route{Path: "/", KeepOriginalICE: true} }

func defaultAdminUser() AdminUser { return AdminUser{Role: "admin"} }

// prefixes is for the constants above: what does not parse is left out, and the test of Default counts them.
func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
