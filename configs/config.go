// Package configs is the gateway's configuration: plain structs whose comments are the manual, loading, validation
// and the commented default file.
//
// A configuration is accepted or refused as a whole. Load reports every problem at once, each with the key it is
// about and what to write instead; nothing is guessed and nothing is ignored.
package configs

import (
	"net/netip"
	"time"
)

// Config is a whole configuration file. The zero value is not usable; start from Default or Load.
type Config struct {
	// Name is the gateway's own name: in its certificate, in the PAC file and in ICE URLs.
	Name string `mapstructure:"name"`
	// Aliases are further own names (a node's name, a virtual address, wpad.hospital.example).
	// The machine's own addresses always count as own names.
	Aliases []string `mapstructure:"aliases"`
	// Addresses tells what the outside sees when the gateway stands behind NAT.
	Addresses Addresses `mapstructure:"addresses"`
	// Clients are the networks that may use the gateway. The default is the private ranges and loopback.
	// It guards everything but ACME challenges, /livez and /readyz. 0.0.0.0/0 and ::/0, or nearly as wide, need ClientsAny.
	Clients []netip.Prefix `mapstructure:"clients"`
	// ClientsAny says that a client network of 0.0.0.0/0 or ::/0 is meant.
	ClientsAny bool      `mapstructure:"clients_any"`
	Listen     Listen    `mapstructure:"listen"`
	TLS        TLS       `mapstructure:"tls"`
	Services   []Service `mapstructure:"services"`
	Hosts      []Host    `mapstructure:"hosts"`
	DNS        DNS       `mapstructure:"dns"`
	Signaling  Signaling `mapstructure:"signaling"`
	Relay      Relay     `mapstructure:"relay"`
	Limits     Limits    `mapstructure:"limits"`
	Forward    Forward   `mapstructure:"forward"`
	PAC        PAC       `mapstructure:"pac"`
	Egress     Egress    `mapstructure:"egress"`
	Precall    Precall   `mapstructure:"precall"`
	Sites      []Site    `mapstructure:"sites"`
	Site       SiteLabel `mapstructure:"site"`
	Admin      Admin     `mapstructure:"admin"`
	Events     Events    `mapstructure:"events"`
	Audit      Audit     `mapstructure:"audit"`
	// Drain is how long live sessions may go on after SIGTERM; it ends early when the last one ends.
	Drain time.Duration `mapstructure:"drain"`
	Log   Log           `mapstructure:"log"`
	// DataDir holds what must survive a restart: keys, certificates, reports.
	DataDir string `mapstructure:"data_dir"`
	// RunDir holds the control socket, hafen.sock.
	RunDir string `mapstructure:"run_dir"`
	// Store is a postgres:// URL where several gateways share history, certificates and a list of themselves; empty: files in DataDir.
	Store string `mapstructure:"store" hafen:"secret"`
}

// Addresses are the addresses the outside sees when the gateway is NAT'd.
type Addresses struct {
	Public []netip.Addr `mapstructure:"public"`
}

// Listen is where the gateway listens. Addresses are "host:port" or ":port".
type Listen struct {
	// HTTPS carries everything over TCP: TLS, HTTP, TURN and CONNECT, told apart by their first bytes.
	HTTPS []string `mapstructure:"https"`
	// TURNUDP carries STUN and TURN over UDP; answers leave from the address that was asked.
	TURNUDP []string `mapstructure:"turn_udp"`
	// Proxy carries CONNECT in plain HTTP, for browsers that can't speak TLS to a proxy.
	Proxy []string `mapstructure:"proxy"`
	// HTTP carries the redirect to https, ACME http-01, the PAC file and WPAD.
	HTTP []string `mapstructure:"http"`
	// Metrics is for machines, plain HTTP without login: /metrics, /livez, /readyz, /api/v1/status. Empty: off.
	Metrics string `mapstructure:"metrics"`
	// ProxyProtocolFrom are the networks whose PROXY protocol header is believed.
	ProxyProtocolFrom []netip.Prefix `mapstructure:"proxy_protocol_from"`
}

// TLS says where the gateway's certificate comes from.
type TLS struct {
	// Source is self-signed (a small CA of its own, constrained to the gateway's names), files or acme.
	Source string    `mapstructure:"source"`
	Files  []TLSFile `mapstructure:"files"`
	ACME   ACME      `mapstructure:"acme"`
}

// TLSFile is one certificate with its key: PEM, or PKCS#12 in Cert with its password in PasswordFile.
type TLSFile struct {
	Cert         string `mapstructure:"cert"`
	Key          string `mapstructure:"key"`
	PasswordFile string `mapstructure:"password_file"`
}

// ACME is an automatic certificate authority, public or the company's own.
type ACME struct {
	Directory  string  `mapstructure:"directory"`
	Email      string  `mapstructure:"email"`
	CAFile     string  `mapstructure:"ca_file"`
	EABKeyID   string  `mapstructure:"eab_key_id"`
	EABKeyFile string  `mapstructure:"eab_key_file"`
	DNS        ACMEDNS `mapstructure:"dns"`
}

// ACMEDNS is a name server that takes RFC 2136 updates for the DNS-01 challenge.
type ACMEDNS struct {
	Server  string `mapstructure:"server"`
	Zone    string `mapstructure:"zone"`
	KeyName string `mapstructure:"key_name"`
	KeyFile string `mapstructure:"key_file"`
}

// Service is one call service. Everything else (routes, CONNECT policy, PAC file, regions) is derived from it.
type Service struct {
	Name string `mapstructure:"name"`
	// GatewayName is the name under which TURN for this service is asked for here. Empty: the first service has Config.Name.
	GatewayName string `mapstructure:"gateway_name"`
	// Hosts are the call servers: names, or "*.suffix" for every name below it.
	Hosts   []string `mapstructure:"hosts"`
	Regions []Region `mapstructure:"regions"`
	// Choose is nearest, or as-asked: the relay that the client named, another only when that one is dead.
	Choose          string          `mapstructure:"choose"`
	TURNCredentials TURNCredentials `mapstructure:"turn_credentials"`
	Probes          Probes          `mapstructure:"probes"`
	// PrivateNetworks are networks otherwise refused (private, loopback, own addresses) that its names may resolve to.
	PrivateNetworks []netip.Prefix `mapstructure:"private_networks"`
	// CAFile holds further roots for TLS towards the service, in PEM.
	CAFile string `mapstructure:"ca_file"`
}

// Region is one cloud relay location.
type Region struct {
	Name string `mapstructure:"name"`
	// URLs are turn: and turns: URLs as a browser would get them; they say which rungs of the uplink ladder exist.
	URLs []string `mapstructure:"urls"`
	// Use false: allowed as a CONNECT target, never chosen by the gateway (data residency).
	Use bool `mapstructure:"use"`
}

// TURNCredentials are optional: for probes, the precall test and terminate mode. One of SecretFile,
// Username with PasswordFile, or URL.
type TURNCredentials struct {
	SecretFile   string `mapstructure:"secret_file"`
	Username     string `mapstructure:"username"`
	PasswordFile string `mapstructure:"password_file"`
	URL          string `mapstructure:"url" hafen:"secret"`
}

// Probes tells what can be asked of a real service.
type Probes struct {
	// CallServers are the names to ask; needed beside wildcard hosts.
	CallServers []string `mapstructure:"call_servers"`
	HTTPS       string   `mapstructure:"https"`
	WebSocket   string   `mapstructure:"websocket"`
	LongPoll    string   `mapstructure:"longpoll"`
}

// Host is a fixed address for a name that the gateway dials.
type Host struct {
	Host string     `mapstructure:"host"`
	IP   netip.Addr `mapstructure:"ip"`
}

// DNS is how the gateway resolves names on its own way out.
type DNS struct {
	// Servers are resolvers, "address" or "address:port". Empty: the system's.
	Servers []string `mapstructure:"servers"`
	// ProxyResolves is auto, always or never: whether names go to Egress.Proxy unresolved.
	ProxyResolves string `mapstructure:"proxy_resolves"`
}

// Signaling is the passthrough to the call servers.
type Signaling struct {
	// Routes map own or service hosts to upstreams. Empty: each service host to itself.
	Routes []Route `mapstructure:"routes"`
	// KeepAlive sends WebSocket pings on sockets silent for this long, at the latest. 0: none.
	KeepAlive time.Duration `mapstructure:"keepalive"`
}

// Route sends one host and path prefix to one upstream.
type Route struct {
	Host string `mapstructure:"host"`
	Path string `mapstructure:"path"`
	// Upstream is an https:// or http:// origin. Empty: https to the host itself.
	Upstream string `mapstructure:"upstream"`
	// Service names the service the route belongs to. Empty: the one whose hosts contain Host.
	Service string `mapstructure:"service"`
	// RewriteICEServers are paths whose JSON answers and WebSocket text messages carry ICE servers into which the gateway puts itself: * is a
	// part of a path without a slash, ** any part. It needs a certificate for Host.
	RewriteICEServers []string `mapstructure:"rewrite_ice_servers"`
	// KeepOriginalICE leaves the service's own ICE servers behind the gateway's.
	KeepOriginalICE bool `mapstructure:"keep_original_ice"`
}

// Relay is TURN for clients.
type Relay struct {
	// Mode is bridge, terminate or local.
	Mode         string       `mapstructure:"mode"`
	SecretFile   string       `mapstructure:"secret_file"`
	Local        RelayLocal   `mapstructure:"local"`
	Rungs        []string     `mapstructure:"rungs"`
	DSCP         string       `mapstructure:"dscp"`
	MaxBandwidth MaxBandwidth `mapstructure:"max_bandwidth"`
	Queue        Queue        `mapstructure:"queue"`
}

// RelayLocal is for mode local: relaying from the gateway's own address.
type RelayLocal struct {
	Address    netip.Addr     `mapstructure:"address"`
	Ports      string         `mapstructure:"ports"`
	AllowPeers []netip.Prefix `mapstructure:"allow_peers"`
	DenyPeers  []netip.Prefix `mapstructure:"deny_peers"`
}

// MaxBandwidth bounds what is relayed, each way. "" is no bound; "4mbit", "600kbit".
type MaxBandwidth struct {
	PerAllocation string `mapstructure:"per_allocation"`
	Total         string `mapstructure:"total"`
}

// Queue is what waits for a slow stream client.
type Queue struct {
	// MaxAge is the age at which a video frame is dropped. Audio is kept for twice as long: after a stall it is what is heard first.
	MaxAge time.Duration `mapstructure:"max_age"`
}

// Limits bound what one client, one user and all together may hold. A client is an IPv4 address or a /64.
type Limits struct {
	AllocationsPerUser   int `mapstructure:"allocations_per_user"`
	AllocationsPerClient int `mapstructure:"allocations_per_client"`
	Allocations          int `mapstructure:"allocations"`
	ConnectionsPerClient int `mapstructure:"connections_per_client"`
	// PendingPerClient counts connections not yet handshaken, identified or allocated.
	PendingPerClient int `mapstructure:"pending_per_client"`
}

// Forward is the CONNECT proxy.
type Forward struct {
	// Allow are targets besides the services' own: "host:port" or "*.suffix:port".
	Allow []string `mapstructure:"allow"`
	// Auth is none or basic.
	Auth  string        `mapstructure:"auth"`
	Users []ForwardUser `mapstructure:"users"`
	// RequireSNIMatch closes a tunnel whose TLS names another host than the CONNECT did.
	RequireSNIMatch bool `mapstructure:"require_sni_match"`
}

// ForwardUser may use the forward proxy.
type ForwardUser struct {
	Name         string `mapstructure:"name"`
	PasswordHash string `mapstructure:"password_hash" hafen:"secret"`
}

// PAC is the proxy auto-configuration file.
type PAC struct {
	Gateways        []string       `mapstructure:"gateways"`
	ServiceFallback string         `mapstructure:"service_fallback"`
	Otherwise       string         `mapstructure:"otherwise"`
	Parent          string         `mapstructure:"parent" hafen:"secret"`
	ParentFile      string         `mapstructure:"parent_file"`
	Rollout         []netip.Prefix `mapstructure:"rollout"`
	Skip            []netip.Prefix `mapstructure:"skip"`
	MaxAge          time.Duration  `mapstructure:"max_age"`
}

// Egress is the gateway's own way out.
type Egress struct {
	// Proxy is http(s)://user:password@proxy:3128; ProxyFile a file that holds such a line.
	Proxy     string       `mapstructure:"proxy" hafen:"secret"`
	ProxyFile string       `mapstructure:"proxy_file"`
	NoProxy   []string     `mapstructure:"no_proxy"`
	Source    []netip.Addr `mapstructure:"source"`
}

// Precall is the test page.
type Precall struct {
	// Mode is advisory, lenient or strict.
	Mode string `mapstructure:"mode"`
	// Networks may be wider than Clients: page and reports only.
	Networks []netip.Prefix `mapstructure:"networks"`
	// History is how long reports are kept; then their bytes are overwritten.
	History    time.Duration      `mapstructure:"history"`
	Thresholds map[string]float64 `mapstructure:"thresholds"`
}

// Site is a part of the house with networks and gateways of its own.
type Site struct {
	Name     string         `mapstructure:"name"`
	Networks []netip.Prefix `mapstructure:"networks"`
	Gateways []string       `mapstructure:"gateways"`
	Help     string         `mapstructure:"help"`
}

// SiteLabel is shown where no site matches.
type SiteLabel struct {
	Name string `mapstructure:"name"`
	Help string `mapstructure:"help"`
}

// Admin is who may see the status page.
type Admin struct {
	Listen   string         `mapstructure:"listen"`
	Networks []netip.Prefix `mapstructure:"networks"`
	Users    []AdminUser    `mapstructure:"users"`
}

// AdminUser may log in to the status page; Role is admin or helpdesk.
type AdminUser struct {
	Name         string `mapstructure:"name"`
	PasswordHash string `mapstructure:"password_hash" hafen:"secret"`
	Role         string `mapstructure:"role"`
}

// Events go out by webhook or mail.
type Events struct {
	Webhook string `mapstructure:"webhook" hafen:"secret"`
	Mail    Mail   `mapstructure:"mail"`
}

// Mail is a mail server that takes events.
type Mail struct {
	Server string   `mapstructure:"server"`
	From   string   `mapstructure:"from"`
	To     []string `mapstructure:"to"`
	// Weekly mails a look back on Mondays.
	Weekly bool `mapstructure:"weekly"`
}

// Audit is the auditor's log; off until File or Syslog is set.
type Audit struct {
	File          string        `mapstructure:"file"`
	Syslog        string        `mapstructure:"syslog"`
	FullAddresses bool          `mapstructure:"full_addresses"`
	Retention     time.Duration `mapstructure:"retention"`
}

// Log is the program's own log.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `mapstructure:"level"`
	// Format is json or text.
	Format        string `mapstructure:"format"`
	FullAddresses bool   `mapstructure:"full_addresses"`
}
