package configs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const hash = "$argon2id$v=19$m=65536,t=3,p=2$ZXhhbXBsZS1zYWx0$ZXhhbXBsZS1rZXktb2YtMzItYnl0ZXMtbG9uZyEhISE"

// valid is a configuration without a problem, to be spoilt.
func valid(t *testing.T) *Config {
	t.Helper()
	c, err := load(t, least)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestValidate(t *testing.T) {
	net := netip.MustParsePrefix
	for _, tt := range []struct {
		name  string
		spoil func(c *Config)
		want  map[string]string
	}{
		{"nothing", func(*Config) {}, nil},
		{"no name", func(c *Config) { c.Name = "" }, map[string]string{"name": "is missing"}},
		{"address as name", func(c *Config) { c.Name = "10.0.0.1" }, map[string]string{"name": "is an address"}},
		{"umlaut", func(c *Config) { c.Name = "gw.höspital.example" }, map[string]string{"name": "gw.xn--hspital-90a.example"}},
		{"name with space", func(c *Config) { c.Name = "gw hospital" }, map[string]string{"name": "character"}},
		{"wildcard name", func(c *Config) { c.Name = "*.hospital.example" }, map[string]string{"name": "wildcard"}},
		{"alias twice", func(c *Config) { c.Aliases = []string{"a.example", "A.example.", "gw.hospital.example"} }, map[string]string{"aliases[1]": "aliases[0]", "aliases[2]": "same name as name"}},
		{"public", func(c *Config) { c.Addresses.Public = []netip.Addr{netip.MustParseAddr("0.0.0.0")} }, map[string]string{"addresses.public[0]": "no address"}},
		{"no clients", func(c *Config) { c.Clients = nil }, map[string]string{"clients": "is empty"}},
		{"all clients", func(c *Config) { c.Clients = []netip.Prefix{net("0.0.0.0/0"), net("::/0")} }, map[string]string{"clients[0]": "clients_any: true", "clients[1]": "clients_any: true"}},
		{"all clients, in halves", func(c *Config) {
			c.Clients = []netip.Prefix{net("0.0.0.0/1"), net("128.0.0.0/2"), net("2000::/3"), net("10.0.0.0/8"), net("fc00::/7")}
		}, map[string]string{"clients[0]": "clients_any: true", "clients[1]": "clients_any: true", "clients[2]": "clients_any: true"}},
		{"halves, meant", func(c *Config) { c.Clients = []netip.Prefix{net("0.0.0.0/1")}; c.ClientsAny = true }, nil},
		{"all clients, meant", func(c *Config) { c.Clients = []netip.Prefix{net("0.0.0.0/0")}; c.ClientsAny = true }, nil},
		{"any, but not all", func(c *Config) { c.ClientsAny = true }, map[string]string{"clients_any": "delete it"}},
		{"unmasked", func(c *Config) { c.Clients = []netip.Prefix{net("fd00::1/8")} }, map[string]string{"clients[0]": "write fd00::/8, or fd00::1/128"}},
		{"mapped", func(c *Config) { c.Clients = []netip.Prefix{net("::ffff:10.0.0.0/104")} }, map[string]string{"clients[0]": "write 10.0.0.0/8"}},
		{"mapped everything", func(c *Config) { c.Clients = []netip.Prefix{net("::ffff:0.0.0.0/96")} }, map[string]string{"clients[0]": "write 0.0.0.0/0"}},

		{"nothing listens", func(c *Config) { c.Listen.HTTPS = nil }, map[string]string{"listen.https": "is empty"}},
		{"ports", func(c *Config) {
			c.Listen.HTTPS = []string{"443", ":0", ":65536", ":0443", ":+443", ":https", "localhost:1", "[::1]:8443"}
		}, map[string]string{
			"listen.https[0]": "no address with a port", "listen.https[1]": "port", "listen.https[2]": "port", "listen.https[3]": "port", "listen.https[4]": "port", "listen.https[5]": "port", "listen.https[6]": "name where an address",
		}},
		{"same port", func(c *Config) {
			c.Listen.HTTPS = []string{"192.0.2.1:443", "192.0.2.2:443"}
			c.Listen.Proxy = []string{"0.0.0.0:443"}
			c.Listen.HTTP = []string{":80", "192.0.2.1:80"}
			c.Listen.TURNUDP = []string{":443", ":3478"}
		}, map[string]string{"listen.proxy[0]": "listen.https[0]", "listen.http[1]": "listen.http[0]"}},
		{"metrics port", func(c *Config) { c.Listen.Metrics = ":443" }, map[string]string{"listen.metrics": "listen.https[0]"}},
		{"no metrics", func(c *Config) { c.Listen.Metrics = "" }, nil},

		{"store no URL", func(c *Config) { c.Store = "sqlite" }, map[string]string{"store": "postgres://USER@HOST/DATABASE"}},
		{"store no database", func(c *Config) { c.Store = "postgres://u@127.0.0.1" }, map[string]string{"store": "names no database"}},
		{"store no user", func(c *Config) { c.Store = "postgres://127.0.0.1/hafen" }, map[string]string{"store": "names no user"}},
		{"store in the clear", func(c *Config) { c.Store = "postgres://u@db.example/hafen?sslmode=prefer" }, map[string]string{"store": "sslmode=verify-full"}},
		{"store sslmode", func(c *Config) { c.Store = "postgres://u@db.example/hafen?sslmode=full" }, map[string]string{"store": "does not know"}},
		{"tls source", func(c *Config) { c.TLS.Source = "self_signed" }, map[string]string{"tls.source": "write self-signed"}},
		{"no files", func(c *Config) { c.TLS.Source = "files" }, map[string]string{"tls.files": "is empty"}},
		{"files unused", func(c *Config) { c.TLS.Files = []TLSFile{{}} }, map[string]string{"tls.files": "tls.source: files", "tls.files[0].cert": "missing"}},
		{"acme unused", func(c *Config) { c.TLS.ACME.Email = "a@b.example" }, map[string]string{"tls.acme": "tls.source: acme"}},
		{"acme", func(c *Config) {
			c.TLS.Source = "acme"
			c.TLS.ACME = ACME{Directory: "http://ca.example/dir", Email: "me", EABKeyID: "x"}
		}, map[string]string{"tls.acme.directory": "https", "tls.acme.email": "mail", "tls.acme.eab_key_id": "belong together"}},

		{"no services", func(c *Config) { c.Services = nil }, map[string]string{"services": "is empty"}},
		{"empty service", func(c *Config) { c.Services = append(c.Services, Service{Choose: "nearest"}) }, map[string]string{
			"services[1].name": "missing", "services[1].hosts": "is empty", "services[1].regions": "is empty",
		}},
		{"service twice", func(c *Config) { c.Services = append(c.Services, c.Services[0]) }, map[string]string{
			"services[1].name": "services[0]", "services[1].hosts[0]": "services[0].hosts[0]", "services[1].hosts[1]": "services[0].hosts[1]", "services[1].regions[0].urls[0]": "services[0] too",
		}},
		{"service name", func(c *Config) { c.Services[0].Name = "a/b" }, map[string]string{"services[0].name": "letters"}},
		{"gateway name twice", func(c *Config) {
			c.Services = append(c.Services, Service{Name: "b", GatewayName: "gw.hospital.example", Hosts: []string{"b.example"}, Choose: "nearest", Regions: []Region{{Name: "r", Use: true, URLs: []string{"turn:r.example"}}}})
		}, map[string]string{"services[1].gateway_name": "services[0].gateway_name"}},
		{"host is own", func(c *Config) { c.Services[0].Hosts = []string{"gw.hospital.example"} }, map[string]string{"services[0].hosts[0]": "gateway itself"}},
		{"host with port", func(c *Config) { c.Services[0].Hosts = []string{"call.example.net:443"} }, map[string]string{"services[0].hosts[0]": "no host name"}},
		{"whole domain", func(c *Config) { c.Services[0].Hosts = []string{"*.net"} }, map[string]string{"services[0].hosts[0]": "top-level"}},
		{"star alone", func(c *Config) { c.Services[0].Hosts = []string{"*", "a*.example.net", "*.*.example.net"} }, map[string]string{"services[0].hosts[0]": "no host name", "services[0].hosts[1]": "no host name", "services[0].hosts[2]": "no host name"}},
		{"choose", func(c *Config) { c.Services[0].Choose = "" }, map[string]string{"services[0].choose": "write one of nearest, as-asked"}},
		{"regions", func(c *Config) {
			c.Services[0].Regions = []Region{{Name: "a"}, {Name: "a", URLs: []string{"stun:x.example", "turn:gw.hospital.example", "turn:127.0.0.1:3478", "turns:r.example?transport=udp"}}}
		}, map[string]string{
			"services[0].regions": "use: true", "services[0].regions[0].urls": "is empty", "services[0].regions[1].name": "regions[0]",
			"services[0].regions[1].urls[0]": "neither turn nor turns", "services[0].regions[1].urls[1]": "gateway itself", "services[0].regions[1].urls[2]": "private_networks", "services[0].regions[1].urls[3]": "DTLS",
		}},
		{"private relay, named", func(c *Config) {
			c.Services[0].PrivateNetworks = []netip.Prefix{net("127.0.0.0/8")}
			c.Services[0].Regions[0].URLs = []string{"turn:127.0.0.1:3478"}
		}, nil},
		{"credentials", func(c *Config) {
			c.Services[0].TURNCredentials = TURNCredentials{SecretFile: "/nowhere", Username: "x"}
		}, map[string]string{
			"services[0].turn_credentials": "more than one source", "services[0].turn_credentials.username": "belong together", "services[0].turn_credentials.secret_file": "does not exist",
		}},
		{"probes", func(c *Config) {
			c.Services[0].Probes = Probes{CallServers: []string{"other.example"}, HTTPS: "x", WebSocket: "wss://x/", LongPoll: "//x/y"}
		}, map[string]string{
			"services[0].probes.call_servers[0]": "none of the service's hosts", "services[0].probes.https": "no path", "services[0].probes.websocket": "no path", "services[0].probes.longpoll": "no path",
		}},
		{"only wildcards", func(c *Config) { c.Services[0].Hosts = []string{"*.call.example.net"} }, nil},
		{"only wildcards, probed", func(c *Config) {
			c.Services[0].Hosts = []string{"*.call.example.net"}
			c.Services[0].Probes.WebSocket = "/ws"
		}, map[string]string{"services[0].probes.call_servers": "nobody to probe"}},

		{"hosts", func(c *Config) {
			a := netip.MustParseAddr("198.51.100.7")
			c.Hosts = []Host{{"call.example.net", a}, {"call.example.net", a}, {"", netip.Addr{}}}
		}, map[string]string{"hosts[1]": "twice", "hosts[2].host": "is empty", "hosts[2].ip": "missing"}},
		{"dns", func(c *Config) {
			c.DNS = DNS{Servers: []string{"192.0.2.53", "[2001:db8::1]:53", "dns.example", "192.0.2.53:0"}, ProxyResolves: "maybe"}
		}, map[string]string{"dns.servers[2]": "no address of a resolver", "dns.servers[3]": "no address", "dns.proxy_resolves": "auto, always, never"}},
		{"egress", func(c *Config) {
			a := netip.MustParseAddr("192.0.2.1")
			c.Egress = Egress{Proxy: "socks5://p:1", NoProxy: []string{"a.example", "*.b.example", ".c.example", "10.0.0.0/8", "10.0.0.1", "10.0.0.1/8", "*x"}, Source: []netip.Addr{a, a}}
		}, map[string]string{"egress.proxy": "neither", "egress.no_proxy[5]": "write 10.0.0.0/8", "egress.no_proxy[6]": "neither a name", "egress.source[1]": "second address"}},
		{"egress without port", func(c *Config) { c.Egress.Proxy = "http://u:p@proxy.example" }, map[string]string{"egress.proxy": "has no port"}},
		{"no proxy", func(c *Config) { c.Egress.NoProxy = []string{"a.example"} }, map[string]string{"egress.no_proxy": "no company proxy"}},

		{"routes", func(c *Config) {
			c.Signaling.Routes = []Route{
				{Host: "calls.hospital.example", Path: "/", KeepOriginalICE: true},
				{Host: "gw.hospital.example", Path: "x", Upstream: "ftp://x", Service: "cals", KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/", Upstream: "https://u:p@x", KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/", Upstream: "http://x:99999", KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/a", Upstream: "http://x/y", KeepOriginalICE: true},
				{Host: "", Path: "/a", Upstream: "https://x", KeepOriginalICE: true},
			}
		}, map[string]string{
			"signaling.routes[0].service": "missing", "signaling.routes[0].upstream": "missing",
			"signaling.routes[1].host": "gateway itself", "signaling.routes[1].path": "no path prefix", "signaling.routes[1].upstream": "neither", "signaling.routes[1].service": "write calls",
			"signaling.routes[2].upstream": "user name", "signaling.routes[3]": "routes[2]", "signaling.routes[3].upstream": "port", "signaling.routes[4].upstream": "path", "signaling.routes[5].host": "missing",
		}},

		{"rewriting", func(c *Config) {
			c.TLS.Source = "files"
			c.TLS.Files = []TLSFile{{Cert: certificate(t, "gw.hospital.example", "*.hospital.example"), Key: write(t, "gw.key", "key", 0o600)}}
			c.Signaling.Routes = []Route{
				{Host: "calls.hospital.example", Path: "/", Upstream: "https://call.example.net", Service: "calls", RewriteICEServers: []string{"/ice", "/api/*/ice"}, KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/", RewriteICEServers: []string{"ice", "/a?b"}, KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/a", KeepOriginalICE: false},
			}
			c.Signaling.KeepAlive = time.Second
		}, map[string]string{
			"signaling.routes[1].rewrite_ice_servers": "no certificate for call.example.net", "signaling.routes[1].rewrite_ice_servers[0]": "no path", "signaling.routes[1].rewrite_ice_servers[1]": "no path",
			"signaling.routes[2].keep_original_ice": "nothing is rewritten", "signaling.keepalive": "shorter than 5s",
		}},
		{"rewriting, self-signed", func(c *Config) {
			c.Signaling.Routes = []Route{
				{Host: "calls.hospital.example", Path: "/", Upstream: "https://call.example.net", Service: "calls", RewriteICEServers: []string{"/ice"}, KeepOriginalICE: true},
				{Host: "call.example.net", Path: "/", RewriteICEServers: []string{"/ice"}, KeepOriginalICE: true},
			}
		}, map[string]string{"signaling.routes[1].rewrite_ice_servers": "no certificate for call.example.net"}},

		{"relay", func(c *Config) {
			c.Relay.Mode, c.Relay.Rungs, c.Relay.DSCP, c.Relay.Queue.MaxAge = "brigde", []string{"udp", "udp", "quic"}, "64", 0
		}, map[string]string{"relay.mode": "write bridge", "relay.rungs[1]": "twice", "relay.rungs[2]": "write one of udp", "relay.dscp": "no DSCP", "relay.queue.max_age": "between 20ms and 10s"}},
		{"no rungs", func(c *Config) { c.Relay.Rungs = nil }, map[string]string{"relay.rungs": "is empty"}},
		{"limits", func(c *Config) { c.Limits = Limits{Allocations: -1, PendingPerClient: 1} }, map[string]string{
			"limits.allocations": "not between", "limits.allocations_per_user": "not between", "limits.allocations_per_client": "not between", "limits.connections_per_client": "not between",
		}},
		{"forward", func(c *Config) {
			c.Forward.Allow = []string{"a.example:443", "*.b.example:8443", "a.example", "10.0.0.1:443", "a.example:0443", "[::1]:443", "*:443"}
		}, map[string]string{"forward.allow[2]": "port", "forward.allow[3]": "address", "forward.allow[4]": "port", "forward.allow[5]": "port", "forward.allow[6]": "no host name"}},
		{"pac", func(c *Config) {
			c.PAC.Gateways = []string{"gw2.example", "gw3.example:8443", "gw4.example:x", "10.0.0.1"}
			c.PAC.ServiceFallback, c.PAC.Otherwise, c.PAC.MaxAge = "PROXY a.example:1; DIRECT", "PROXY \"+alert(1)+\":1", 48*time.Hour
			c.PAC.Skip = []netip.Prefix{net("10.0.0.1/8")}
		}, map[string]string{"pac.gateways[2]": "port", "pac.gateways[3]": "address", "pac.otherwise": "no result", "pac.max_age": "between", "pac.skip[0]": "write 10.0.0.0/8"}},
		{"pac parent", func(c *Config) { c.PAC.Parent = "ftp://wpad.example/proxy.pac" }, map[string]string{"pac.parent": "neither an http:// nor an https:// URL"}},
		{"pac parent is ours", func(c *Config) { c.PAC.Parent = "https://" + c.Name + "/proxy.pac" }, map[string]string{"pac.parent": "this gateway's own"}},
		{"pac parent and file", func(c *Config) {
			c.PAC.Parent, c.PAC.ParentFile = "http://wpad.example/proxy.pac", write(t, "pac", "function FindProxyForURL(u, h) { return 'DIRECT' }", 0o644)
		}, map[string]string{"pac.otherwise": "keep one of the three"}},
		{"pac parent file", func(c *Config) { c.PAC.ParentFile = write(t, "nopac", "<html>", 0o644) }, map[string]string{"pac.parent_file": "no FindProxyForURL"}},
		{"forward users", func(c *Config) { c.Forward.Auth = "basic" }, map[string]string{"forward.users": "is empty"}},
		{"forward users without basic", func(c *Config) { c.Forward.Users = []ForwardUser{{"a", hash}} }, map[string]string{"forward.users": "forward.auth is none"}},
		{"forward user", func(c *Config) {
			c.Forward.Auth, c.Forward.Users = "basic", []ForwardUser{{"a", hash}, {"a", "a password"}, {"a:b", hash}}
		}, map[string]string{"forward.users[1].name": "forward.users[0]", "forward.users[1].password_hash": "no argon2id hash", "forward.users[2].name": "a colon"}},
		{"pac fallback", func(c *Config) { c.PAC.ServiceFallback = "" }, map[string]string{"pac.service_fallback": "no result"}},
		{"precall", func(c *Config) { c.Precall.Mode, c.Precall.History = "strikt", 0 }, map[string]string{"precall.mode": "write strict", "precall.history": "between"}},
		{"sites", func(c *Config) {
			c.Sites = []Site{{Name: "a", Networks: []netip.Prefix{net("10.1.0.0/16")}}, {Name: "a", Networks: []netip.Prefix{net("10.1.0.0/16")}}, {}}
		}, map[string]string{"sites[1].name": "sites[0]", "sites[1].networks[0]": "sites[0]", "sites[2].name": "missing", "sites[2].networks": "is empty"}},
		{"users", func(c *Config) {
			c.Admin.Users = []AdminUser{{"anna", hash, "admin"}, {"anna", "secret", "root"}, {"", "", "admin"}, {"a b", hash, "admin"}}
		}, map[string]string{
			"admin.users[1].name": "admin.users[0]", "admin.users[1].password_hash": "no argon2id hash", "admin.users[1].role": "admin, helpdesk",
			"admin.users[2].name": "missing", "admin.users[2].password_hash": "missing", "admin.users[3].name": "space",
		}},
		{"house", func(c *Config) {
			c.Drain, c.Log, c.DataDir, c.RunDir = -1, Log{Level: "warning", Format: "xml"}, "", ""
		}, map[string]string{
			"drain": "shorter than 0s", "log.level": "write warn", "log.format": "json, text", "data_dir": "is empty", "run_dir": "is empty",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := valid(t)
			tt.spoil(c)
			wantProblems(t, c.Validate(), tt.want)
		})
	}
}

func TestTLSFiles(t *testing.T) {
	cert := write(t, "gw.pem", "-----BEGIN CERTIFICATE-----", 0o644)
	key := func(mode fs.FileMode) string { return write(t, "gw.key", "key", mode) }
	for _, tt := range []struct {
		name string
		file TLSFile
		want map[string]string
	}{
		{"0600", TLSFile{Cert: cert, Key: key(0o600)}, nil},
		{"0640", TLSFile{Cert: cert, Key: key(0o640)}, nil},
		{"0644", TLSFile{Cert: cert, Key: key(0o644)}, map[string]string{"tls.files[0].key": "mode 0644"}},
		{"0666", TLSFile{Cert: cert, Key: key(0o666)}, map[string]string{"tls.files[0].key": "chmod"}},
		{"no key", TLSFile{Cert: cert}, map[string]string{"tls.files[0].key": "missing"}},
		{"no files there", TLSFile{Cert: "/nowhere/a", Key: "/nowhere/b"}, map[string]string{"tls.files[0].cert": "does not exist", "tls.files[0].key": "does not exist"}},
		{"directory", TLSFile{Cert: t.TempDir(), Key: key(0o600)}, map[string]string{"tls.files[0].cert": "cannot be read as a file"}},
		{"empty", TLSFile{Cert: write(t, "e", "", 0o600), Key: key(0o600)}, map[string]string{"tls.files[0].cert": "empty"}},
		{"password for PEM", TLSFile{Cert: cert, Key: key(0o600), PasswordFile: "x"}, map[string]string{"tls.files[0].password_file": "PKCS#12"}},
		{"PKCS#12", TLSFile{Cert: write(t, "a.p12", "x", 0o600), PasswordFile: key(0o600)}, nil},
		{"PKCS#12 open to all", TLSFile{Cert: write(t, "a.PFX", "x", 0o644), Key: "x"}, map[string]string{"tls.files[0].cert": "mode 0644", "tls.files[0].key": "delete it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := valid(t)
			c.TLS = TLS{Source: "files", Files: []TLSFile{tt.file}}
			wantProblems(t, c.Validate(), tt.want)
		})
	}
	c := valid(t)
	c.Services[0].CAFile = write(t, "ca", "no certificate", 0o644)
	c.Egress.ProxyFile = write(t, "proxy", "proxy:3128", 0o600)
	wantProblems(t, c.Validate(), map[string]string{"services[0].ca_file": "without a certificate", "egress.proxy_file": "holds no proxy URL"})
	c = valid(t)
	c.Egress.ProxyFile = write(t, "proxy", "http://u:p@proxy.example:3128\n", 0o600)
	wantProblems(t, c.Validate(), nil)
}

func TestIsPasswordHash(t *testing.T) {
	for text, want := range map[string]bool{
		hash: true,
		strings.Replace(hash, "m=65536", "m=99999999", 1): false,
		strings.Replace(hash, "t=3", "t=0", 1):            false,
		strings.Replace(hash, "p=2", "q=2", 1):            false,
		strings.Replace(hash, "v=19", "v=16", 1):          false,
		strings.Replace(hash, "argon2id", "argon2i", 1):   false,
		hash + "$":         false,
		"":                 false,
		"correct horse":    false,
		"$argon2id$v=19$$": false,
	} {
		if IsPasswordHash(text) != want {
			t.Errorf("IsPasswordHash(%q) is not %v", text, want)
		}
	}
}

// certificate writes one for the names, signed by its own key.
func certificate(t *testing.T, names ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "gw.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
}
