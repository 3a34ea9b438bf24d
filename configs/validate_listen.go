package configs

import (
	"net"
	"net/netip"
)

// socket is an address to listen on, as far as it can be known before binding it.
type socket struct {
	key  string
	host netip.Addr // the zero Addr for all addresses
	port uint16
}

// listen checks the addresses to listen on, and that no two of them want the same port.
func (k *check) listen() {
	l := k.config.Listen
	if len(l.HTTPS) == 0 {
		k.bad("listen.https", "is empty, so that nothing would listen", `write ":443"`)
	}
	var tcp []socket
	tcp = k.sockets(tcp, "listen.https", l.HTTPS)
	tcp = k.sockets(tcp, "listen.proxy", l.Proxy)
	tcp = k.sockets(tcp, "listen.http", l.HTTP)
	if l.Metrics != "" {
		tcp = k.socket(tcp, "listen.metrics", l.Metrics)
	}
	if k.config.Admin.Listen != "" {
		tcp = k.socket(tcp, "admin.listen", k.config.Admin.Listen)
	}
	k.apart(tcp)
	k.apart(k.sockets(nil, "listen.turn_udp", l.TURNUDP))
	k.networks("listen.proxy_protocol_from", l.ProxyProtocolFrom)
}

func (k *check) sockets(to []socket, key string, addresses []string) []socket {
	for i, address := range addresses {
		to = k.socket(to, at(key, i), address)
	}
	return to
}

func (k *check) socket(to []socket, key, address string) []socket {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		k.bad(key, "is no address with a port", `write ":443" for all addresses or "192.0.2.7:443" for one`)
		return to
	}
	number, err := parsePort(port)
	if err != nil {
		k.bad(key, "has no port from 1 to 65535", `write it in digits, such as ":443"`)
		return to
	}
	s := socket{key: key, port: number}
	if host != "" {
		if s.host, err = netip.ParseAddr(host); err != nil {
			k.bad(key, "has a name where an address belongs", `write an address of this machine, or none for all of them: ":443"`)
			return to
		}
		if s.host.IsUnspecified() {
			s.host = netip.Addr{}
		}
	}
	return append(to, s)
}

// apart checks that sockets of one protocol can be bound together.
func (k *check) apart(sockets []socket) {
	for i, s := range sockets {
		for _, earlier := range sockets[:i] {
			same := s.host == earlier.host || !s.host.IsValid() || !earlier.host.IsValid()
			if s.port == earlier.port && same {
				k.bad(s.key, "wants the port that "+earlier.key+" has", "write another port or another address")
				break
			}
		}
	}
}
