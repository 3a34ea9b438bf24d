package configs

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// pages checks the precall test, the sites and the status page.
func (k *check) pages() {
	c := k.config
	k.choice("precall.mode", c.Precall.Mode)
	k.networks("precall.networks", c.Precall.Networks)
	k.between("precall.history", c.Precall.History, time.Hour, 10*365*24*time.Hour)
	names := thresholdNames()
	for name := range c.Precall.Thresholds {
		if !slices.Contains(names, name) {
			k.bad("precall.thresholds."+shown(name), "is no key", "write "+orAnyOf(nearest(name, names), names))
		}
	}
	k.sites()
	k.networks("admin.networks", c.Admin.Networks)
	seen := make(map[string]string)
	for i, u := range c.Admin.Users {
		key := at("admin.users", i)
		k.user(key, u.Name, u.PasswordHash, seen)
		k.choice(key+".role", u.Role)
	}
}

// sites checks the parts of the house. A network may be in one of them only.
func (k *check) sites() {
	names := make(map[string]string)
	networks := make(map[netip.Prefix]string)
	for i, s := range k.config.Sites {
		key := at("sites", i)
		if s.Name == "" {
			k.bad(key+".name", "is missing", "write what people call the place")
		} else if first, taken := take(names, s.Name, key); taken {
			k.bad(key+".name", "is the name of "+first+" already", "write another name")
		}
		if len(s.Networks) == 0 {
			k.bad(key+".networks", "is empty, so that nobody is there", "write the networks of the site")
		}
		k.networks(key+".networks", s.Networks)
		for j, p := range s.Networks {
			if first, taken := networks[p]; taken {
				k.bad(at(key+".networks", j), "is a network of "+first+" already", "delete one of them")
			}
			networks[p] = key
		}
		k.gateways(key+".gateways", s.Gateways)
	}
}

// user checks a user's name and the hash of the password.
func (k *check) user(key, name, hash string, seen map[string]string) {
	bad := func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r == ':' }
	switch {
	case name == "":
		k.bad(key+".name", "is missing", "write the name to log in with")
	case len(name) > 64 || strings.ContainsFunc(name, bad):
		k.bad(key+".name", "has a space, a colon or more than 64 characters", "write a shorter name without them")
	}
	if first, taken := take(seen, name, key); taken && name != "" {
		k.bad(key+".name", "is the name of "+first+" already", "write another name")
	}
	switch {
	case hash == "":
		k.bad(key+".password_hash", "is missing", "write what hafen passwd prints")
	case !IsPasswordHash(hash):
		k.bad(key+".password_hash", "is no argon2id hash", "write what hafen passwd prints, in single quotes; never the password itself")
	}
}

// IsPasswordHash reports whether hash has the form that hafen passwd prints: $argon2id$v=19$m=…,t=…,p=…$salt$key, with costs within
// reason, so that a copied hash can't make each login cost gigabytes.
func IsPasswordHash(hash string) bool {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return false
	}
	costs := strings.Split(parts[3], ",")
	bounds := []struct {
		name        string
		least, most uint64
	}{{"m=", 8 << 10, 256 << 10}, {"t=", 1, 10}, {"p=", 1, 64}} // m in KiB
	if len(costs) != len(bounds) {
		return false
	}
	for i, b := range bounds {
		digits, ok := strings.CutPrefix(costs[i], b.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n < b.least || n > b.most {
			return false
		}
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return false
	}
	key, err := base64.RawStdEncoding.DecodeString(parts[5])
	return err == nil && len(key) >= 16 && len(key) <= 64
}

// reports checks where events and the audit log go.
func (k *check) reports() {
	e, a := k.config.Events, k.config.Audit
	if e.Webhook != "" {
		if u, err := url.Parse(e.Webhook); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			k.bad("events.webhook", "is neither an https:// nor an http:// URL", "write the URL that takes events")
		}
	}
	if m := e.Mail; m.Server != "" || m.From != "" || len(m.To) > 0 {
		if m.Server == "" || m.From == "" || len(m.To) == 0 {
			k.bad("events.mail", "lacks one of server, from and to", "write all three, or none")
		}
		if _, _, err := net.SplitHostPort(m.Server); m.Server != "" && err != nil {
			k.bad("events.mail.server", "has no port", "write host:port, such as mail.hospital.example:25")
		}
	}
	k.atLeast("audit.retention", a.Retention, 24*time.Hour)
}
