package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hafen/configs"
)

// ruleSheet is what the firewall team gets; its JSON is what a later --diff compares with.
type ruleSheet struct {
	Gateway string    `json:"gateway"`
	Made    time.Time `json:"made"`
	Rules   []fwRule  `json:"rules"`
}

// fwRule is one line of the sheet.
type fwRule struct {
	Number   int    `json:"number"`
	FromZone string `json:"from_zone"`
	From     string `json:"from"`
	ToZone   string `json:"to_zone"`
	To       string `json:"to"`
	// Addresses are those that From or To has now, whichever is the far end.
	Addresses   []string `json:"addresses,omitempty"`
	Protocol    string   `json:"protocol"`
	Ports       string   `json:"ports"`
	Application string   `json:"application"`
	// Inspection says what a TLS-inspecting box must do; Idle the least idle time-out.
	Inspection string `json:"tls_inspection"`
	Idle       string `json:"idle_timeout"`
	NAT        string `json:"nat"`
	QoS        string `json:"qos"`
	Why        string `json:"why"`
	Without    string `json:"without"`
}

// The zones, as firewall teams call them.
const (
	zoneInside  = "inside"
	zoneDMZ     = "DMZ"
	zoneOutside = "outside"
	zoneHouse   = "house services"
)

const (
	idleTCP = "≥ 3600 s"
	idleUDP = "≥ 60 s"
	exempt  = "exempt"
	snatOK  = "source NAT is fine"
)

// sheetMaker collects the rules of one configuration.
type sheetMaker struct {
	cfg   *configs.Config
	look  lookup
	rules []fwRule
}

// newSheet makes the rules, in the order in which they should be asked for.
func newSheet(cfg *configs.Config, look lookup, now time.Time) ruleSheet {
	m := &sheetMaker{cfg: cfg, look: look}
	m.inward()
	for i := range cfg.Services {
		m.callServers(&cfg.Services[i])
		m.relays(&cfg.Services[i])
	}
	m.companyProxy()
	m.localRelay()
	m.houseServices()
	m.acme()
	m.add(fwRule{
		FromZone: zoneDMZ, From: cfg.Name, ToZone: zoneInside, To: "any", Protocol: "any", Ports: "any", Application: "none",
		Why: "the gateway opens no connection to clients: deny and log", Without: "nothing; this is the rule that denies",
	})
	return ruleSheet{Gateway: cfg.Name, Made: now.UTC().Truncate(time.Second), Rules: m.rules}
}

func (m *sheetMaker) add(r fwRule) {
	r.Inspection, r.Idle = cmp.Or(r.Inspection, "none"), cmp.Or(r.Idle, "default")
	r.NAT, r.QoS = cmp.Or(r.NAT, "none"), cmp.Or(r.QoS, "none")
	for _, have := range m.rules {
		if have.key() == r.key() {
			return
		}
	}
	r.Number = len(m.rules) + 1
	m.rules = append(m.rules, r)
}

// media is the mark that the gateway sets.
func (m *sheetMaker) media() string {
	if m.cfg.Relay.DSCP == "" {
		return "none"
	}
	return "keep DSCP " + m.cfg.Relay.DSCP
}

// inward are the rules from the clients to the gateway.
func (m *sheetMaker) inward() {
	l, own := m.cfg.Listen, m.look.own(m.cfg.Name)
	clients := make([]string, 0, len(m.cfg.Clients))
	for _, n := range m.cfg.Clients {
		if !n.Addr().IsLoopback() {
			clients = append(clients, n.String())
		}
	}
	in := func(listen []string, r fwRule) {
		if len(listen) == 0 {
			return
		}
		r.FromZone, r.From, r.ToZone, r.To = cmp.Or(r.FromZone, zoneInside), cmp.Or(r.From, strings.Join(clients, ", ")), zoneDMZ, m.cfg.Name
		r.Addresses, r.Ports = own, portsOf(listen)
		if r.NAT == "" {
			r.NAT = "no source NAT: the gateway must see the client's own address"
		}
		m.add(r)
	}
	in(l.HTTPS, fwRule{
		Protocol: "TCP", Application: "HTTPS, WebSocket, long-poll, CONNECT, TURN over TLS and TCP", Inspection: exempt, Idle: idleTCP, QoS: m.media(),
		Why: "everything that clients do goes through this port", Without: "no call, no page, no test",
	})
	in(l.TURNUDP, fwRule{
		Protocol: "UDP", Application: "STUN, TURN", Idle: idleUDP, QoS: m.media(),
		Why: "sound and picture without TCP's delays", Without: "media goes over TCP: worse in poor networks",
	})
	in(l.Proxy, fwRule{
		Protocol: "TCP", Application: "HTTP CONNECT", Inspection: exempt, Idle: idleTCP, QoS: m.media(),
		Why: "browsers that can't speak TLS to a proxy, or don't trust the certificate", Without: "these browsers go round the gateway",
	})
	in(l.HTTP, fwRule{
		Protocol: "TCP", Application: "HTTP", Why: "PAC file by WPAD, redirect to https", Without: "no WPAD; http:// addresses do not answer",
	})
	if admin := m.cfg.Admin; beyondLoopback(admin.Listen) {
		from := make([]string, 0, len(admin.Networks))
		for _, n := range admin.Networks {
			from = append(from, n.String())
		}
		in([]string{admin.Listen}, fwRule{
			From: strings.Join(from, ", "), Protocol: "TCP", Application: "HTTPS: the status page", Inspection: exempt, Idle: idleTCP,
			Why: "administrators and help desk (admin.listen)", Without: "the status page is not reached",
		})
	}
	if beyondLoopback(l.Metrics) {
		in([]string{l.Metrics}, fwRule{
			FromZone: zoneHouse, From: "monitoring", Protocol: "TCP", Application: "HTTP: /metrics, /readyz",
			Why: "monitoring", Without: "nobody is told when something breaks",
		})
	}
}

// beyondLoopback reports whether others than this machine reach a listener.
func beyondLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return err != nil || !a.IsLoopback()
}

// target is the rule as the doctor's findings name what they connect to.
func (r fwRule) target() string {
	return r.Protocol + " " + net.JoinHostPort(r.To, r.Ports)
}

// callServers are the rules for a service's signaling.
func (m *sheetMaker) callServers(s *configs.Service) {
	for _, host := range append(slices.Clone(s.Hosts), s.Probes.CallServers...) {
		m.signaling(s, configs.CanonicalHost(host), 443)
	}
	for _, r := range m.cfg.Signaling.Routes {
		u, err := url.Parse(r.Upstream)
		owner := m.cfg.ServiceNamed(r.Service)
		if owner == nil {
			owner = m.cfg.ServiceOfHost(r.Host)
		}
		if err != nil || u.Host == "" || owner != s {
			continue
		}
		port := map[string]uint16{"http": 80, "https": 443}[u.Scheme]
		if p, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
			port = uint16(p)
		}
		m.signaling(s, configs.CanonicalHost(u.Hostname()), port)
	}
}

func (m *sheetMaker) signaling(s *configs.Service, host string, port uint16) {
	r := fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneOutside, To: host, Protocol: "TCP", Ports: strconv.Itoa(int(port)),
		Application: "HTTPS, WebSocket, long-poll", Inspection: exempt, Idle: idleTCP, NAT: snatOK,
		Why: fmt.Sprintf("call server of %s", s.Name), Without: "no call begins",
	}
	if proxy := m.look.proxied(host, port); proxy != "" {
		r.From, r.FromZone = "company proxy "+proxy, zoneHouse
		r.Application = "CONNECT for " + m.cfg.Name + ", with no log-in page and no inspection"
	} else {
		r.Addresses = m.look.addresses(host, port, s)
	}
	m.add(r)
}

// relays are the rules for a service's media, a line for each transport that the configuration allows.
func (m *sheetMaker) relays(s *configs.Service) {
	for i := range s.Regions {
		region := &s.Regions[i]
		for _, u := range region.Relays() {
			m.relay(s, region, u)
		}
	}
}

func (m *sheetMaker) relay(s *configs.Service, region *configs.Region, u configs.TURNURL) {
	r := fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneOutside, To: u.Host, Ports: strconv.Itoa(int(u.Port)), NAT: snatOK, QoS: m.media(),
		Why: fmt.Sprintf("relay %s of %s", region.Name, s.Name),
	}
	rung := u.Transport
	switch {
	case u.Secure:
		rung = "tls"
		r.Protocol, r.Application, r.Inspection, r.Idle = "TCP", "TURN over TLS, which is not HTTPS", exempt, idleTCP
		r.Without = "no way to this relay where UDP and TCP are closed"
	case u.Transport == "tcp":
		r.Protocol, r.Application, r.Inspection, r.Idle = "TCP", "TURN", exempt, idleTCP
		r.Without = "no way to this relay where UDP is closed, but TLS"
	default:
		r.Protocol, r.Application, r.Idle, r.Without = "UDP", "STUN, TURN", idleUDP, "media goes over TCP or TLS: more delay, more gaps"
	}
	if !region.Use {
		if rung == "udp" {
			return // browsers reach it through CONNECT, which is TCP
		}
		r.Why += ", for browsers that ask for it by CONNECT"
	} else if !slices.Contains(m.cfg.Relay.Rungs, rung) {
		return
	}
	r.Addresses = m.look.addresses(u.Host, u.Port, s)
	m.add(r)
	if proxy := m.look.proxied(u.Host, u.Port); u.Secure && proxy != "" && slices.Contains(m.cfg.Relay.Rungs, "proxy") {
		r.From, r.FromZone, r.Addresses = "company proxy "+proxy, zoneHouse, nil
		r.Application = "CONNECT for " + m.cfg.Name + ", TURN over TLS in it: no inspection"
		m.add(r)
	}
}

// companyProxy is the rule for the gateway's own way out, where one is set.
func (m *sheetMaker) companyProxy() {
	proxy := m.look.proxied("hafen.invalid", 443) // a name that no_proxy does not have
	if proxy == "" {
		return
	}
	host, port, _ := net.SplitHostPort(proxy)
	m.add(fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneHouse, To: host, Protocol: "TCP", Ports: port, Application: "HTTP CONNECT",
		Inspection: exempt, Idle: idleTCP, Why: "the gateway's way out (egress.proxy)", Without: "no call server and no relay is reached",
	})
}

// localRelay is for relay.mode local, where the gateway itself is the relay.
func (m *sheetMaker) localRelay() {
	if m.cfg.Relay.Mode != "local" {
		return
	}
	m.add(fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name + ", source ports " + m.cfg.Relay.Local.Ports, ToZone: zoneOutside, To: "any", Protocol: "UDP", Ports: "1024-65535",
		Application: "RTP, STUN", Idle: idleUDP, NAT: "1:1, ports kept; answers back in", QoS: m.media(),
		Why: "relay.mode local: media goes from here to the other party", Without: "no sound and no picture",
	})
}

// houseServices are what any server needs, and what the configuration names.
func (m *sheetMaker) houseServices() {
	out := func(to, protocol, port, application, why, without string) {
		if to != "" {
			m.add(fwRule{FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneHouse, To: to, Protocol: protocol, Ports: port, Application: application, Why: why, Without: without})
		}
	}
	dns := m.cfg.DNS.Servers
	if len(dns) == 0 {
		dns = m.look.resolvers()
	}
	if len(dns) == 0 {
		dns = []string{"the house's DNS servers"}
	}
	for _, server := range dns {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			host, port = server, "53"
		}
		out(host, "UDP, TCP", port, "DNS", "names of the call service", "no name resolves, unless hosts has its address")
	}
	out("the house's time server", "UDP", "123", "NTP", "certificates and TURN credentials depend on the clock", "TLS and credentials fail once the clock drifts")
	hostPort := func(addr, application, why, without string) {
		if host, port, err := net.SplitHostPort(addr); err == nil {
			out(host, "TCP", port, application, why, without)
		}
	}
	hostPort(m.cfg.Audit.Syslog, "syslog over TLS", "the auditor's log (audit.syslog)", "the log is not complete")
	hostPort(m.cfg.Events.Mail.Server, "SMTP", "events by mail (events.mail)", "nobody is told by mail")
	m.byURL(m.cfg.Events.Webhook, "events (events.webhook)", "nobody is told by webhook")
	m.byURL(m.cfg.PAC.Parent, "the company's own PAC file (pac.parent)", "the rest of the web has no rule in our PAC file")
	m.byURL(m.cfg.Store, "history that several gateways share (store)", "each gateway has a history of its own")
}

// byURL is a rule to the host of a URL; of the URL nothing else is shown, it may hold a password.
func (m *sheetMaker) byURL(text, why, without string) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return
	}
	usual := map[string]string{"http": "80", "https": "443", "postgres": "5432", "postgresql": "5432"}
	m.add(fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneHouse, To: u.Hostname(), Protocol: "TCP", Ports: cmp.Or(u.Port(), usual[u.Scheme]),
		Application: strings.ToUpper(u.Scheme), Why: why, Without: without,
	})
}

// acme are the two ways between the gateway and its certificate authority.
func (m *sheetMaker) acme() {
	if m.cfg.TLS.Source != "acme" {
		return
	}
	host, port := "acme-v02.api.letsencrypt.org", uint16(443)
	if u, err := url.Parse(m.cfg.TLS.ACME.Directory); err == nil && u.Hostname() != "" {
		host = u.Hostname()
		if p, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
			port = uint16(p)
		}
	}
	order := fwRule{
		FromZone: zoneDMZ, From: m.cfg.Name, ToZone: zoneOutside, To: host, Protocol: "TCP", Ports: strconv.Itoa(int(port)), Application: "HTTPS (ACME)",
		NAT: snatOK, Inspection: exempt, Why: "the certificate is ordered there", Without: "the certificate ends",
	}
	if proxy := m.look.proxied(host, port); proxy != "" {
		order.FromZone, order.From = zoneHouse, "company proxy "+proxy
	}
	m.add(order)
	challenge := "443"
	if len(m.cfg.Listen.HTTP) > 0 {
		challenge = "443 or 80"
	}
	m.add(fwRule{
		FromZone: zoneOutside, From: "the authority (public ones: any)", ToZone: zoneDMZ, To: m.cfg.Name, Protocol: "TCP", Ports: challenge,
		Application: "ACME challenge", Inspection: exempt, NAT: "destination NAT to the gateway", Why: "the authority looks whether the name is ours", Without: "the certificate is not issued",
	})
}

// portsOf are the ports of listeners, "443, 3478".
func portsOf(listen []string) string {
	var ports []string
	for _, l := range listen {
		if _, port, err := net.SplitHostPort(l); err == nil && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return strings.Join(ports, ", ")
}
