package e2e

import (
	"fmt"
	"testing"
)

// relaySecret is the TURN REST secret that the call service and its relays share. The gateway never has it.
var relaySecret = secrets.Make("the TURN secret of the cloud")

// startCoturn runs Debian's coturn at addr: UDP and TCP 3478, UDP and TLS 443, time-limited credentials.
func startCoturn(t testing.TB, ns *namespace, ca *authority, name, addr string) *process {
	t.Helper()
	cert, key := ca.issue(t, name, addr)
	// "keep": who comes over IPv6 and asks for no family is relayed from an IPv6 address, if that is all there is.
	p := ns.start(t, "coturn "+name, "turnserver", "--allocation-default-address-family=keep", "-n", "--log-file=stdout", "--simple-log", "--no-cli", "--no-rfc5780",
		"--listening-ip="+addr, "--relay-ip="+addr, "--listening-port=3478", "--tls-listening-port=443",
		"--min-port=50000", "--max-port=59999", "--cert="+cert, "--pkey="+key, "--use-auth-secret",
		"--static-auth-secret="+relaySecret, "--realm=cloud.example", fmt.Sprintf("--pidfile=%s/%s.pid", ca.dir, name),
		"--userdb="+fmt.Sprintf("%s/%s.db", ca.dir, name))
	ns.waitTCP(t, hostPort(addr, 3478))
	return p
}
