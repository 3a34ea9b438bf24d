package netpolicy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNothingDialsAround: in all that the gateway is made of, nothing connects, looks up names or sends a request but through a Dialer of this
// package. What stands here is the rest, each with its reason; a new one fails, and so does one that is no more.
func TestNothingDialsAround(t *testing.T) {
	accepted := map[string]string{
		"gateway/netpolicy/dial.go net.Dialer":           "the door itself: the address is judged",
		"gateway/netpolicy/ports.go net.Dialer":          "the door itself",
		"gateway/netpolicy/resolve.go net.Dialer":        "to the name servers of dns.servers, or the system's",
		"gateway/netpolicy/resolve.go net.Resolver":      "the door's own way to ask them",
		"gateway/certs/store.go net.Dialer":              "where there is no gateway: hafen check reads the files, and orders nothing",
		"gateway/database.go net.Dialer":                 "PostgreSQL's unix socket",
		"gateway/listen.go net.Dial":                     "a unix socket, to see whether another gateway runs here",
		"gateway/checkup_machine.go net.DefaultResolver": "what its own name means to this machine; nothing is connected to",
		"gateway/testplan.go net.DefaultResolver":        "whether its own name has an IPv6 address; nothing is connected to",
		"relay/release.go net.Dialer":                    "binds a UDP socket to a client that has proved its address; nothing is sent to anybody else",
		"cmd/hafen/control.go net.Dialer":                "a command's, to the unix socket of the gateway",
		"cmd/hafen/firewall.go net.DefaultResolver":      "a command's: the administrator asks for the sheet with addresses",
		"cmd/hafen/pacengine.go net.DefaultResolver":     "a command's: dnsResolve of the PAC file that an administrator tries",
		"cmd/hafen/pac.go net.Dialer":                    "a command's: fetches pac.parent as asked",
		"cmd/hafen/pacverify.go http.Transport":          "a command's: fetches the PAC file that the administrator names",
		"cmd/hafen/bundle.go http.Transport":             "a command's, to listen.metrics of the gateway beside",
	}
	found := make(map[string][]string)
	for _, room := range []string{"configs", "gateway", "relay", "signaling", "precall", "cmd/hafen"} {
		root := filepath.Join("../..", room)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for what, at := range ownWays(file) {
				key := strings.TrimPrefix(filepath.ToSlash(path), "../../") + " " + what
				found[key] = append(found[key], fmt.Sprint(set.Position(at).Line))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if accepted[key] == "" {
			t.Errorf("%s (line %s) goes around the address policy: use the gateway's dialer", key, strings.Join(found[key], ", "))
		}
	}
	for key := range accepted {
		if found[key] == nil {
			t.Errorf("%s is accepted, and is not there", key)
		}
	}
	if len(found) == 0 {
		t.Error("nothing was looked at")
	}
}

// ways are functions, variables and types of packages that reach out by themselves.
var ways = regexp.MustCompile(`^(net\.(Dial\w*|Lookup\w*|Dialer|Resolver|DefaultResolver)|tls\.(Dial\w*|Dialer)|smtp\.(Dial|SendMail)|syslog\.Dial\w*|` +
	`dns\.Exchange\w*|websocket\.Dial\w*|http\.(Get|Head|Post|PostForm|DefaultClient|DefaultTransport|ProxyFromEnvironment)|pgx\w*\.Connect\w*|rpc\.Dial\w*)$`)

// ownWays finds them in a file, and what would take one by default: a Transport without DialContext, a Client without a Transport, and a DNS
// client that connects.
func ownWays(file *ast.File) map[string]token.Pos {
	found := make(map[string]token.Pos)
	named := func(e ast.Expr) string {
		if s, ok := e.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok {
				return x.Name + "." + s.Sel.Name
			}
		}
		return ""
	}
	needs := map[string]string{"http.Transport": "DialContext", "http.Client": "Transport"}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if name := named(n); ways.MatchString(name) {
				found[name] = n.Pos()
			}
			if n.Sel.Name == "ExchangeContext" || n.Sel.Name == "Exchange" {
				found["dns client's "+n.Sel.Name] = n.Pos()
			}
		case *ast.CompositeLit:
			name := named(n.Type)
			if need := needs[name]; need != "" && !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					return false
				}
				key, ok := kv.Key.(*ast.Ident)
				return ok && key.Name == need
			}) {
				found[name] = n.Pos()
			}
		}
		return true
	})
	return found
}
