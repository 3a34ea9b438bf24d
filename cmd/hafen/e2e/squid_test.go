package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The account that the gateway has at the company's proxy, and the password as a URL writes it.
const proxyUser = "gateway"

var (
	proxyPassword      = "s3cret@dmz/" + secrets.Make("the proxy's password")
	proxyPasswordInURL = url.QueryEscape(proxyPassword)
	mistypedPassword   = secrets.Make("the proxy's mistyped password")
)

// squid is Debian's Squid as a company has it: in a namespace of its own, with the only way out. It wants a password, and
// lets CONNECT through to port 443 only.
type squid struct {
	ns   *namespace
	dir  string
	proc *process
}

// startSquid listens on 3128 and, inside TLS, on 3129. names are what it can resolve: the cloud's.
func startSquid(t testing.TB, l *laboratory, names map[string]string) *squid {
	t.Helper()
	s := &squid{ns: l.net.host("company")}
	s.ns.names(t, names)
	s.dir = squidDir(t)
	cert, key := l.ca.issue(t, proxyName)
	s.write(t, "auth.sh", fmt.Sprintf("while read -r user password; do\n"+
		"\tif [ \"$user $password\" = %q ]; then echo OK; else echo ERR; fi\ndone\n", proxyUser+" "+proxyPassword))
	s.write(t, "squid.conf", fmt.Sprintf(`http_port %[1]s:3128
https_port %[1]s:3129 tls-cert=%[2]s tls-key=%[3]s
auth_param basic program /bin/sh %[4]s/auth.sh
auth_param basic children 2 startup=1
auth_param basic realm company
acl known proxy_auth REQUIRED
acl tls_port port 443
http_access deny CONNECT !tls_port
http_access allow CONNECT known
http_access deny all
visible_hostname %[5]s
access_log stdio:%[4]s/access.log
cache_log %[4]s/cache.log
pid_filename %[4]s/squid.pid
coredump_dir %[4]s
netdb_filename none
pinger_enable off
cache deny all
cache_mem 4 MB
shutdown_lifetime 0 seconds
max_filedescriptors 1024
`, s.ns.addr, cert, key, s.dir, proxyName))
	service := fmt.Sprintf("hf%d", os.Getpid())
	t.Cleanup(func() { // should it have been killed
		left, _ := filepath.Glob("/dev/shm/" + service + "-*.shm")
		for _, file := range left {
			_ = os.Remove(file)
		}
	})
	s.proc = s.ns.start(t, "squid", "squid", "-N", "-n", service, "-f", filepath.Join(s.dir, "squid.conf"))
	s.ns.waitTCP(t, s.ns.addr+":3128")
	s.ns.waitTCP(t, s.ns.addr+":3129")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- squid:\n%s\n%s", s.log("access.log"), s.log("cache.log"))
		}
	})
	return s
}

// squidDir is a directory that Squid can write to: started by root it goes on as the user proxy, who can't look into the
// test's own.
func squidDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "hafen-squid")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	u, err := user.Lookup("proxy")
	must(t, err)
	uid, err := strconv.Atoi(u.Uid)
	must(t, err)
	gid, err := strconv.Atoi(u.Gid)
	must(t, err)
	must(t, os.Chown(dir, uid, gid))
	return dir
}

func (s *squid) write(t testing.TB, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644))
}

func (s *squid) log(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(b)
}

// tunnels counts the CONNECTs that Squid has let through to a target and that have ended, and those refused.
func (s *squid) tunnels(target string) (passed, denied int) {
	for _, line := range strings.Split(s.log("access.log"), "\n") {
		switch {
		case !strings.Contains(line, " CONNECT "+target+" "):
		case strings.Contains(line, "TCP_TUNNEL/200"):
			passed++
		case strings.Contains(line, "TCP_DENIED/"):
			denied++
		}
	}
	return passed, denied
}

// behindSquid is a scene whose gateway may reach nothing but the company's proxy: the DMZ's own rules leave one port open.
func behindSquid(t testing.TB) (*laboratory, *scene, *squid) {
	var s *squid
	sc := &scene{regions: []relay{frankfurt, london}}
	sc.between = func(l *laboratory) {
		s = startSquid(t, l, sc.cloudNames())
		sc.names = map[string]string{proxyName: s.ns.addr}
		sc.more = fmt.Sprintf("egress: {proxy: %q}\n", s.url("http", proxyPasswordInURL, 3128))
		l.dmz.onlyTo(t, "ip daddr "+s.ns.addr+" tcp dport { 3128, 3129 }")
		l.dmz.nft(t, "insert rule inet fw input tcp dport 443 accept")
	}
	return sc.standUp(t), sc, s
}

// url is the proxy as egress.proxy has it.
func (s *squid) url(scheme, password string, port int) string {
	return fmt.Sprintf("%s://%s:%s@%s:%d", scheme, proxyUser, password, proxyName, port)
}

// TestSquid: the gateway's only way out is the company's proxy, for media and signaling alike.
func TestSquid(t *testing.T) { scenario(t, squidOnly) }

func squidOnly(t *testing.T) {
	l, sc, s := behindSquid(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	t.Run("browsers", func(t *testing.T) {
		l.waitRungs("frankfurt", "proxy:443")
		l.waitCallServer()
		began := time.Now()
		_, _ = l.call(t, ward, "https://"+callName+"/r/squid?join=1&relay=1&video=small")
		t.Logf("the call's media flowed after %v, on %v", time.Since(began).Round(time.Millisecond), l.rungs())
		l.onRung(t, "proxy:443", 2)
	})
	t.Run("credentials from a file", func(t *testing.T) {
		file := filepath.Join(l.dir, "proxy.url")
		must(t, os.WriteFile(file, []byte(s.url("http", proxyPasswordInURL, 3128)+"\n"), 0o600))
		sc.more = fmt.Sprintf("egress: {proxy_file: %s}\n", file)
		l.bootGateway(sc.config(l))
		l.throughProxy(t, ward)
	})
	t.Run("https", func(t *testing.T) {
		sc.more = fmt.Sprintf("egress: {proxy: %q}\n", s.url("https", proxyPasswordInURL, 3129))
		l.bootGateway(sc.config(l), "SSL_CERT_FILE="+l.ca.file) // as if it were among the system's roots
		l.throughProxy(t, ward)
	})
	t.Run("no DNS", func(t *testing.T) {
		l.dmz.nft(t, "insert rule inet fw input udp dport 53 drop")
		sc.more = fmt.Sprintf("egress: {proxy: %q}\nhosts: [{host: %s, ip: %s}]\n", s.url("http", proxyPasswordInURL, 3128), proxyName, s.ns.addr)
		l.bootGateway(sc.config(l))
		l.throughProxy(t, ward)
		l.dmz.nft(t, "insert rule inet fw input udp dport 53 accept")
	})
	t.Run("wrong password", func(t *testing.T) {
		sc.more = fmt.Sprintf("egress: {proxy: %q}\n", s.url("http", mistypedPassword, 3128))
		l.bootGateway(sc.config(l))
		l.wrongPassword(t, ward)
	})
	if passed, denied := s.tunnels(fraName + ":443"); passed == 0 || denied == 0 {
		t.Errorf("Squid counts %d tunnels to %s and %d refused, want some of both:\n%s", passed, fraName, denied, s.log("access.log"))
	}
}

// throughProxy makes a call without browsers.
func (l *laboratory) throughProxy(t *testing.T, office *namespace) {
	t.Helper()
	l.waitRungs("frankfurt", "proxy:443")
	c := l.smallCall(t, office, "tls", 10*time.Second)
	t.Logf("connected in %v on %v", c.took.Round(time.Millisecond), l.rungs())
	l.onRung(t, "proxy:443", 2)
	c.close()
}

// onRung checks that so many sessions at least are on a rung, and none on another.
func (l *laboratory) onRung(t testing.TB, rung string, least int) {
	t.Helper()
	n := 0
	for where, sessions := range l.rungs() {
		if !strings.HasSuffix(where, " "+rung) {
			t.Errorf("%d sessions are on %s, want all on %s", sessions, where, rung)
		}
		n += sessions
	}
	if n < least {
		t.Errorf("%d sessions on %s, want %d at least", n, rung, least)
	}
}

// waitCallServer waits until the gateway's own probe of the call server has succeeded.
func (l *laboratory) waitCallServer() {
	l.t.Helper()
	waitForOr(l.t, "the call server to be up", 30*time.Second, func() bool {
		for _, c := range l.snapshot().CallServers {
			if c.State == "up" {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("%+v", l.snapshot().CallServers) })
}

// wrongPassword: status and log name what the proxy said and what to do about it; a client is refused at once.
func (l *laboratory) wrongPassword(t *testing.T, office *namespace) {
	var why string
	waitForOr(t, "the proxy rung's state", 20*time.Second, func() bool {
		rung := rungOf(l.snapshot(), "frankfurt", "proxy:443")
		why = rung.Why
		return rung.State == "down" && strings.Contains(why, "egress.proxy")
	}, func() string { return fmt.Sprintf("%+v", rungOf(l.snapshot(), "frankfurt", "proxy:443")) })
	t.Log("status says:", why)
	log := l.gateway.out.String()
	if !strings.Contains(log, "password; check `egress.proxy`") {
		t.Errorf("the log does not say so:\n%s", l.gateway.out.tail(4000))
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := l.newCaller(ctx, office, "tls", gatewayAddr)
	t.Logf("a client was refused after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if err == nil || ctx.Err() != nil {
		t.Errorf("an allocation without any way out: %v, want a refusal at once", err)
	}
}
