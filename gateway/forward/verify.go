package forward

import (
	"net"
	"strconv"
	"strings"

	"hafen/configs"
)

// anyLabel stands for the * of a wildcard where a whole name is needed.
const anyLabel = "any-name"

// ServiceURLs are what browsers ask a PAC file about for the services: each host and each relay, in every form in which
// browsers write it. A WebSocket is asked about as wss:, and TURN over TCP as https: by Chromium and as http: by Firefox.
func ServiceURLs(c *configs.Config) []string {
	exact, below := pacTargets(c)
	for _, t := range below {
		t.host = anyLabel + t.host
		exact = append(exact, t)
	}
	relays := newPolicy(c, nil).relays
	var urls []string
	for _, t := range exact {
		_, isRelay := relays[t.host]
		for _, port := range t.ports {
			at := net.JoinHostPort(t.host, strconv.Itoa(int(port)))
			switch {
			case port == 443 && c.ServiceOfHost(t.host) != nil:
				urls = append(urls, "https://"+t.host+"/", "wss://"+t.host+"/")
			case port == 443:
				urls = append(urls, "https://"+t.host+"/")
			default:
				urls = append(urls, "https://"+at+"/")
			}
			if isRelay {
				urls = append(urls, "http://"+at+"/")
			}
		}
	}
	return urls
}

// OwnURLs are the pages of the gateways, which have to be DIRECT.
func OwnURLs(c *configs.Config) []string {
	var urls []string
	for _, name := range pacOwn(c) {
		urls = append(urls, "https://"+name+"/")
	}
	return urls
}

// Reach is how far a PAC file's answer leads to a gateway.
type Reach int

// The ways that an answer can go.
const (
	ReachNever Reach = iota // no entry is a gateway
	ReachPort               // one is, but with a port or a scheme at which no gateway listens
	ReachLater              // after another entry
	ReachFirst
)

// Reaches reads the answer of a PAC file.
func Reaches(c *configs.Config, answer string) Reach {
	best := ReachNever
	for i, entry := range strings.Split(answer, ";") {
		word, address, _ := strings.Cut(strings.TrimSpace(entry), " ")
		host, port, ok := strings.Cut(strings.TrimSpace(address), ":")
		if word != "PROXY" && word != "HTTPS" && word != "HTTP" || !ok {
			continue
		}
		ports, known := gatewayPorts(c, configs.CanonicalHost(host))
		switch {
		case !known:
		case !ports(word == "HTTPS", port):
			best = max(best, ReachPort)
		case i == 0:
			return ReachFirst
		default:
			best = max(best, ReachLater)
		}
	}
	return best
}

// gatewayPorts tells whether host is a gateway's name, and at which ports it takes CONNECT in TLS or without: without at
// 443 as well, for that port tells them apart.
func gatewayPorts(c *configs.Config, host string) (ports func(tls bool, port string) bool, known bool) {
	https := portOf(c.Listen.HTTPS, "443")
	names := append(allGateways(c), c.OwnNames()...)
	for _, g := range names {
		name, port, ok := strings.Cut(g, ":")
		if configs.CanonicalHost(name) != host {
			continue
		}
		if !ok {
			port = https
		}
		return func(tls bool, asked string) bool {
			return asked == port || !tls && len(c.Listen.Proxy) > 0 && asked == portOf(c.Listen.Proxy, "3128")
		}, true
	}
	return nil, false
}
