package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hafen/configs"
	"hafen/gateway/certs"
	"hafen/gateway/forward"
)

// ports tries to bind what the configuration listens on, and lets go again.
func (c *checkup) ports(ctx context.Context) []Finding {
	var all []Finding
	try := func(key string, addrs []string, bind func(key, addr string) error) {
		for _, addr := range addrs {
			f := Finding{Area: "port", About: key + " " + addr, Verdict: Pass, Detail: "can be bound"}
			err := bind(key, addr)
			mayNot := err != nil && strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE")
			switch {
			case err != nil && c.Running && (mayNot || strings.Contains(err.Error(), "another program listens")):
				f.Detail = "taken, by the gateway that runs here" // which ends when it can't bind one of its ports
			case mayNot:
				f.Verdict, f.Detail = Skip, "this user may not bind ports below 1024"
				f.Todo = "the unit gives the service that capability; run the doctor as root to know whether the port is free"
			case err != nil:
				f.Verdict, f.Detail, f.Todo = Fail, "can't be bound", strings.TrimPrefix(err.Error(), fmt.Sprintf("%s: can't listen at %s: ", key, addr))
			}
			all = append(all, f)
		}
	}
	tcp := func(key, addr string) error {
		ln, err := listenTCP(ctx, key, addr)
		if err != nil {
			return err
		}
		return ln.Close()
	}
	l := c.Config.Listen
	try("listen.https", l.HTTPS, tcp)
	try("listen.proxy", l.Proxy, tcp)
	try("listen.http", l.HTTP, tcp)
	try("listen.metrics", oneOrNone(l.Metrics), tcp)
	try("admin.listen", oneOrNone(c.Config.Admin.Listen), tcp)
	try("listen.turn_udp", l.TURNUDP, func(key, addr string) error {
		pc, err := listenUDP(ctx, key, addr)
		if err != nil {
			return err
		}
		return pc.Close()
	})
	return all
}

// files: a relayed client takes two, its connection and its uplink.
func (c *checkup) files(context.Context) []Finding {
	f := Finding{Area: "files", About: "open files", Verdict: Pass}
	limit, err := c.FileLimit()
	need := uint64(2*c.Config.Limits.Allocations + 1000)
	f.Detail = fmt.Sprintf("%d may be open, %d are enough for limits.allocations", limit, need)
	switch {
	case err != nil:
		f.Verdict, f.Detail = Skip, err.Error()
	case limit < 1024:
		f.Verdict, f.Todo = Fail, "write LimitNOFILE=65536 in the unit"
	case limit < need:
		f.Verdict, f.Todo = Warn, "write LimitNOFILE=65536 in the unit, or lower limits.allocations"
	}
	return []Finding{f}
}

// Below these a disk is full, or nearly.
const (
	fullBelow       = 50 << 20
	nearlyFullBelow = 500 << 20
)

// disk looks at data_dir, which the service makes when it is not there.
func (c *checkup) disk(context.Context) []Finding {
	dir := c.Config.DataDir
	f := Finding{Area: "disk", About: "data_dir " + dir, Verdict: Pass}
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	free, total, err := c.DiskFree(at)
	const mib = 1 << 20
	switch {
	case err != nil:
		f.Verdict, f.Detail = Skip, err.Error()
	case free < fullBelow:
		f.Verdict, f.Detail, f.Todo = Fail, fmt.Sprintf("%d MiB are free", free/mib), "make room: certificates and reports can't be kept on a full disk"
	case free < nearlyFullBelow || free < total/20:
		f.Verdict, f.Detail, f.Todo = Warn, fmt.Sprintf("%d of %d MiB are free", free/mib, total/mib), "make room before it is full"
	default:
		f.Detail = fmt.Sprintf("%d MiB are free", free/mib)
	}
	if at != dir {
		f.Detail += "; it does not exist yet"
	} else if err := syscall.Access(dir, 2 /* W_OK */); err != nil {
		f.Verdict, f.Detail, f.Todo = Fail, "it can't be written to by this user", "chown it to the user that hafen runs as, or run the doctor as that user"
	}
	return []Finding{f}
}

// clock compares this machine's with what a call server writes into its answer.
func (c *checkup) clock(ctx context.Context) []Finding {
	f := Finding{Area: "clock", About: "clock", Verdict: Skip, Detail: "no call server told the time"}
	for i := range c.Config.Services {
		for _, host := range c.Config.Services[i].CallServers() {
			there, err := c.dateOf(ctx, &c.Config.Services[i], host)
			if err != nil {
				continue
			}
			off := c.Now().Sub(there).Round(time.Second)
			f.Verdict, f.Detail = Pass, fmt.Sprintf("%v from that of %s", off.Abs(), host)
			if off > 0 {
				f.Detail = fmt.Sprintf("%v ahead of that of %s", off, host)
			}
			switch {
			case off.Abs() > 5*time.Minute:
				f.Verdict, f.Todo = Fail, "set the clock and let this machine reach a time server (UDP 123): certificates and TURN credentials depend on it"
			case off.Abs() > 30*time.Second:
				f.Verdict, f.Todo = Warn, "let this machine reach a time server (UDP 123)"
			}
			return []Finding{f}
		}
	}
	return []Finding{f}
}

// dateOf asks a call server for anything, and takes the Date of its answer. The certificate is not looked at: with a wrong clock
// none is valid, and nothing but the time is taken.
func (c *checkup) dateOf(ctx context.Context, s *configs.Service, host string) (time.Time, error) {
	base := "https://" + host
	for _, r := range c.Config.Signaling.Routes {
		if configs.CanonicalHost(r.Host) == host && r.Upstream != "" {
			base = r.Upstream
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return c.g.dialService(ctx, network, addr, s.Name)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base, nil)
	if err != nil {
		return time.Time{}, err
	}
	res, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	_ = res.Body.Close()
	return http.ParseTime(res.Header.Get("Date"))
}

// certificates looks at what the gateway would show. Nothing is made or ordered.
func (c *checkup) certificates(context.Context) []Finding {
	f := Finding{Area: "certificate", About: c.Config.Name, Verdict: Skip}
	switch c.Config.TLS.Source {
	case "acme":
		f.Detail, f.Todo = "ordered when the gateway runs", "see hafen status"
		return []Finding{f}
	case "self-signed":
		if _, err := os.Stat(filepath.Join(c.Config.DataDir, "self-signed", "root.pem")); err != nil {
			f.Detail, f.Todo = "the self-signed root is made when the gateway first starts", "then install it on the PCs (hafen ca), or use a certificate of the company's CA"
			if errors.Is(err, fs.ErrPermission) {
				f.Detail, f.Todo = "the self-signed root can't be read by this user", "run the doctor as the user that hafen runs as"
			}
			return []Finding{f}
		}
	}
	store, err := certs.New(certs.Options{Config: c.Config, Now: c.Now})
	if err != nil {
		f.Verdict, f.Detail, f.Todo = Fail, err.Error(), "put the right files there; hafen csr makes a request with all own names"
		return []Finding{f}
	}
	defer func() { _ = store.Close() }()
	var all []Finding
	for _, info := range store.Status() {
		all = append(all, c.certificate(info))
	}
	for _, w := range store.Warnings() {
		all = append(all, Finding{Area: "certificate", About: c.Config.Name, Verdict: Warn, Detail: w, Todo: "correct the file; it is read again by itself"})
	}
	return all
}

func (c *checkup) certificate(info certs.Info) Finding {
	f := Finding{Area: "certificate", About: strings.Join(info.Names, ", "), Verdict: Pass}
	left := info.Expires.Sub(c.Now())
	days := int(left.Hours() / 24)
	f.Detail = fmt.Sprintf("by %s, until %s, %d days", info.Issuer, info.Expires.Format(time.DateOnly), days)
	switch {
	case info.Problem != "":
		f.Verdict, f.Detail, f.Todo = Fail, info.Problem, "correct it; the old one stays in use"
	case left <= 0:
		f.Verdict, f.Todo = Fail, "renew it: browsers turn away"
	case c.Config.TLS.Source == "self-signed":
		f.Verdict, f.Todo = Warn, "browsers trust it only where the root is installed (hafen ca); TURN over TLS does not work elsewhere"
	case days < 14:
		f.Verdict, f.Todo = Warn, "renew it; new files are taken in by themselves"
	}
	return f
}

// pac renders the PAC file as the gateway would serve it.
func (c *checkup) pac(ctx context.Context) []Finding {
	f := Finding{Area: "pac", About: "PAC file", Verdict: Pass, Detail: "sends the services' hosts here"}
	parent, err := forward.ReadParent(c.Config)
	if parent == nil && c.Config.PAC.Parent != "" {
		parent, err = forward.FetchParent(ctx, c.Config, c.g.dialHouse)
	}
	if err != nil {
		f.Verdict, f.Detail, f.Todo = Fail, "the company's own PAC file: "+err.Error(), "correct pac.parent or pac.parent_file; without it nobody knows where the rest of the web goes"
		return []Finding{f}
	}
	in := forward.PACInput{Config: c.Config, OmitHTTPS: c.Config.TLS.Source == "self-signed", Parent: parent}
	_, err = forward.RenderPAC(in)
	_, offers := forward.RenderSnippet(in)
	switch {
	case errors.Is(err, forward.ErrPACOff):
		f.Verdict, f.Detail, f.Todo = Skip, "off", "write pac.otherwise: DIRECT (or a proxy) to have one"
	case err != nil:
		f.Verdict, f.Detail = Fail, err.Error()
	case errors.Is(offers, forward.ErrNoGateway):
		f.Verdict, f.Detail = Warn, "it offers no gateway: browsers would refuse a self-signed certificate at an HTTPS proxy"
		f.Todo = `write listen.proxy: [":3128"], or use a certificate that browsers trust`
	}
	return []Finding{f}
}

// names resolves every name that is dialled, as the gateway does, and the gateway's own as clients do.
func (c *checkup) names(ctx context.Context) []Finding {
	all := []Finding{c.ownName(ctx)}
	seen := make(map[string]bool)
	resolve := func(s *configs.Service, host string, port uint16) {
		if _, err := netip.ParseAddr(host); err == nil || seen[host] || strings.HasPrefix(host, "*") {
			return
		}
		seen[host] = true
		all = append(all, c.name(ctx, s, host, port))
	}
	for i := range c.Config.Services {
		s := &c.Config.Services[i]
		for _, host := range s.CallServers() {
			if !c.routedElsewhere(host) {
				resolve(s, host, 443)
			}
		}
		for _, u := range s.Relays() {
			resolve(s, u.Host, u.Port)
		}
	}
	for _, r := range c.Config.Signaling.Routes {
		if u, err := url.Parse(r.Upstream); err == nil && u.Hostname() != "" {
			resolve(c.Config.ServiceOfHost(r.Host), configs.CanonicalHost(u.Hostname()), 443)
		}
	}
	return all
}

// routedElsewhere: requests for the host go to another one, and its own name is not dialled.
func (c *checkup) routedElsewhere(host string) bool {
	for _, r := range c.Config.Signaling.Routes {
		if configs.CanonicalHost(r.Host) == host && r.Upstream != "" && r.Path == "/" {
			return true
		}
	}
	return false
}

func (c *checkup) name(ctx context.Context, s *configs.Service, host string, port uint16) Finding {
	f := Finding{Area: "dns", About: host, Verdict: Pass}
	found, err := c.g.dialer().Resolve(ctx, host, port, scopeOf(s))
	if err == nil {
		var addrs []string
		for _, ap := range found {
			addrs = append(addrs, ap.Addr().String())
		}
		f.Detail = strings.Join(addrs, ", ")
		return f
	}
	f.Detail = err.Error()
	if p := c.g.dialer().Proxy; p != nil && !p.Exempt(host, port) && c.Config.DNS.ProxyResolves != "never" && statusOf(err) != "err_policy" {
		f.Verdict, f.Detail = Skip, "does not resolve here; the company proxy resolves it"
		return f
	}
	f.Verdict, f.Todo = Fail, "let this machine ask a DNS server that knows the name (dns.servers), or write its address in hosts"
	if statusOf(err) == "err_policy" {
		f.Todo = "if this address is meant, name its network in the service's private_networks; if it is split DNS, write the real one in hosts or use dns.servers"
	}
	return f
}

func (c *checkup) ownName(ctx context.Context) Finding {
	f := Finding{Area: "dns", About: c.Config.Name + " (own name)", Verdict: Pass}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, c.Config.Name)
	if err != nil {
		f.Verdict, f.Detail, f.Todo = Warn, "does not resolve on this machine", "clients must resolve it to this gateway: ask for the record in internal DNS"
		return f
	}
	f.Detail = strings.Join(addrs, ", ")
	for _, a := range addrs {
		if ip, err := netip.ParseAddr(a); err == nil && c.g.dialer().Policy.Own(ip) {
			return f
		}
	}
	f.Verdict, f.Todo = Warn, "none of these is an address of this machine: fine behind NAT or a virtual address (then set addresses.public or aliases), else correct DNS"
	return f
}
