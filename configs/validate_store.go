package configs

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// store checks the URL of the shared database. A certificate's private key goes over that connection, so it is encrypted unless
// it stays on this machine.
func (k *check) store() {
	text := k.config.Store
	if text == "" {
		return
	}
	const write = "write postgres://USER@HOST/DATABASE?sslmode=verify-full&passfile=FILE, or delete it for files in data_dir"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql":
		k.bad("store", "is no PostgreSQL URL", write)
		return
	case strings.Trim(u.Path, "/") == "":
		k.bad("store", "names no database", write)
	case u.User.Username() == "" && u.Query().Get("user") == "":
		k.bad("store", "names no user", write)
	}
	mode := u.Query().Get("sslmode")
	switch known := []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}; {
	case mode != "" && !slices.Contains(known, mode):
		k.bad("store", "has an sslmode that PostgreSQL does not know", "write sslmode=verify-full")
	case !onThisMachine(u) && !slices.Contains([]string{"require", "verify-ca", "verify-full"}, mode):
		k.bad("store", "would send private keys over the network unencrypted", "write sslmode=verify-full (with sslrootcert=FILE for the house's own CA)")
	}
}

// onThisMachine tells whether a database is reached by a socket file or over loopback.
func onThisMachine(u *url.URL) bool {
	host := u.Hostname()
	if h := u.Query().Get("host"); h != "" {
		host = h
	}
	if first, port, err := net.SplitHostPort(host); err == nil && port != "" {
		host = first
	}
	addr, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && addr.IsLoopback()
}
