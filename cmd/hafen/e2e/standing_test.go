package e2e

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const standingText = `
The laboratory stands until you press Ctrl-C.

  gateway       %[1]s at %[2]s, in namespace %[3]s; configuration %[4]s
  call service  https://%[5]s/ (lists the gateway), https://%[6]s/ (knows nothing of it), in namespace %[7]s
  relays        coturn: %[8]s at %[9]s, %[10]s at %[11]s
  office        namespace %[12]s: only TCP 443 to the gateway is open
  outpatients   namespace %[13]s: the same, and no names but the gateway's: browsers need its PAC file

  a command in the office      ip netns exec %[12]s curl --cacert %[14]s https://%[5]s/healthz
  a browser in the office      %[15]s %[12]s https://%[5]s/r/demo
  one with the PAC file only   %[15]s %[13]s https://%[6]s/r/demo --proxy-pac-url=https://%[1]s/proxy.pac
  the gateway's own word       %[16]s status --config %[4]s
  a region falls silent        ip netns exec %[7]s nft -f - <<< 'table inet cut { chain out { type filter hook output priority 0; ip saddr %[9]s drop; }; }'
  and comes back               ip netns exec %[7]s nft delete table inet cut
`

// browserScript opens a Chromium that one can look at, with the laboratory's root trusted.
const browserScript = `#!/bin/sh
# usage: browser NAMESPACE URL [CHROMIUM SWITCHES]
ns=$1; shift
home=$(mktemp -d); mkdir -p "$home/.pki/nssdb"
certutil -d sql:"$home/.pki/nssdb" -N --empty-password
certutil -d sql:"$home/.pki/nssdb" -A -t C,, -n lab -i %s
exec env HOME="$home" ip netns exec "$ns" chromium --no-sandbox --disable-quic --no-first-run --use-fake-device-for-media-stream --user-data-dir="$home/profile" "$@"
`

// TestLab leaves the laboratory standing, for a person to try things: make lab.
func TestLab(t *testing.T) {
	if !*standing {
		t.Skip("only with -lab: make lab leaves the laboratory standing")
	}
	l := newLaboratory(t)
	office := l.office("office", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	outpatients := l.office("outp", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	script := filepath.Join(l.dir, "browser")
	must(t, os.WriteFile(script, fmt.Appendf(nil, browserScript, l.ca.file), 0o755))
	fmt.Println(strings.TrimRight(fmt.Sprintf(standingText, gatewayName, gatewayAddr, l.dmz.name, filepath.Join(l.dir, "hafen.yaml"), callName, plainName, l.cloud.name,
		fraName, fraAddr, lonName, lonAddr, office.name, outpatients.name, l.ca.file, script, hafenBinary), "\n"))
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	<-interrupted
}
