package configs

import (
	"bytes"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// forward checks the CONNECT proxy's own settings; most of its policy comes from the services.
func (k *check) forward() {
	f := k.config.Forward
	for i, target := range f.Allow {
		k.target(at("forward.allow", i), target)
	}
	k.choice("forward.auth", f.Auth)
	if f.Auth == "basic" && len(f.Users) == 0 {
		k.bad("forward.users", "is empty, but forward.auth is basic", "write a user with name and password_hash (hafen passwd makes one)")
	}
	if f.Auth == "none" && len(f.Users) > 0 {
		k.bad("forward.users", "is set, but forward.auth is none", "write forward.auth: basic, or delete them")
	}
	seen := make(map[string]string)
	for i, u := range f.Users {
		k.user(at("forward.users", i), u.Name, u.PasswordHash, seen)
	}
}

// target checks a CONNECT target: a name, never an address, and one port in its canonical form.
func (k *check) target(key, target string) {
	host, port, ok := strings.Cut(target, ":")
	if _, err := parsePort(port); !ok || err != nil {
		k.bad(key, "has no port from 1 to 65535", "write host:port or *.suffix:port, such as files.example.net:443")
		return
	}
	k.hostname(key, host, true)
}

// pac checks the PAC file's settings. What it would print into JavaScript must be one of few forms.
func (k *check) pac() {
	p := k.config.PAC
	k.gateways("pac.gateways", p.Gateways)
	if p.ServiceFallback != "none" && !isPACResult(p.ServiceFallback) {
		k.bad("pac.service_fallback", "is no result of a PAC file", `write DIRECT, none or "PROXY proxy.hospital.example:3128"`)
	}
	if p.Otherwise != "" && !isPACResult(p.Otherwise) {
		k.bad("pac.otherwise", "is no result of a PAC file", `write DIRECT or "PROXY proxy.hospital.example:3128"`)
	}
	set := 0
	for _, way := range []string{p.Otherwise, p.Parent, p.ParentFile} {
		if way != "" {
			set++
		}
	}
	if set > 1 {
		k.bad("pac.otherwise", "is set beside pac.parent or pac.parent_file, or both of these are", "keep one of the three")
	}
	if p.Parent != "" {
		switch u, err := url.Parse(p.Parent); {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			k.bad("pac.parent", "is neither an http:// nor an https:// URL", "write the URL of the company's own PAC file")
		case k.config.OwnName(CanonicalHost(u.Hostname())):
			k.bad("pac.parent", "is this gateway's own PAC file", "write the URL of the company's own, which this one is wrapped around")
		}
	}
	if text := k.file("pac.parent_file", p.ParentFile); len(text) > 0 && !bytes.Contains(text, []byte("FindProxyForURL")) {
		k.bad("pac.parent_file", "names a file that is no PAC file: it has no FindProxyForURL", "write the path of the company's own PAC file")
	}
	k.networks("pac.rollout", p.Rollout)
	k.networks("pac.skip", p.Skip)
	k.between("pac.max_age", p.MaxAge, 0, 24*time.Hour)
}

// gateways checks names of gateways, with a port where it is not 443.
func (k *check) gateways(key string, gateways []string) {
	for i, g := range gateways {
		host, port, ok := strings.Cut(g, ":")
		if ok {
			if _, err := parsePort(port); err != nil {
				k.bad(at(key, i), "has no port from 1 to 65535", "write gw2.hospital.example or gw2.hospital.example:443")
				continue
			}
		}
		k.hostname(at(key, i), host, false)
	}
}

// isPACResult reports whether text is what FindProxyForURL may return, as far as we let it: entries of DIRECT, PROXY host:port
// or HTTPS host:port, separated by semicolons.
func isPACResult(text string) bool {
	for entry := range strings.SplitSeq(text, ";") {
		entry = strings.TrimSpace(entry)
		if entry == "DIRECT" {
			continue
		}
		word, address, _ := strings.Cut(entry, " ")
		if word != "PROXY" && word != "HTTPS" {
			return false
		}
		i := strings.LastIndexByte(address, ':')
		if i < 0 {
			return false
		}
		host := address[:i]
		_, err := parsePort(address[i+1:])
		_, addrErr := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
		if err != nil || addrErr != nil && checkHostname(host) != nil {
			return false
		}
	}
	return true
}
