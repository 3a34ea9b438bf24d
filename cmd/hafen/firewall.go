package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway"
)

// firewall prints the rule sheet for the firewall team, from the configuration and the addresses that its names have now.
func firewall(ctx context.Context, w world, args []string) error {
	fs := flags(w, "firewall")
	file := fs.String("config", "", "configuration `file`")
	csv := fs.Bool("csv", false, "for a spreadsheet or the firewall team's tool")
	ticket := fs.Bool("ticket", false, "plain text to paste into a ticket")
	asJSON := fs.Bool("json", false, "to keep, for a later --diff")
	old := fs.String("diff", "", "what has changed since this `file` was printed with --json; exit code 1 if anything has")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	before := ruleSheet{}
	if *old != "" {
		if before, err = readSheet(*old); err != nil {
			return err
		}
	}
	names, err := gateway.NewNames(cfg)
	if err != nil {
		return err
	}
	now := newSheet(cfg, &nameLookup{ctx: ctx, cfg: cfg, names: names}, time.Now())
	switch {
	case *old != "":
		return writeSheetDiff(w.stdout, before, now)
	case *asJSON:
		e := json.NewEncoder(w.stdout)
		e.SetIndent("", "  ")
		return e.Encode(now)
	case *csv:
		return now.writeCSV(w.stdout)
	case *ticket:
		now.writeTicket(w.stdout)
	default:
		now.writeText(w.stdout)
	}
	return nil
}

func readSheet(file string) (s ruleSheet, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil || len(s.Rules) == 0 {
		return s, fmt.Errorf("firewall: --diff %s is not what hafen firewall --json prints: %w", file, errUsage)
	}
	return s, nil
}

// lookup is what the rule sheet asks of the network; tests answer it themselves.
type lookup interface {
	// own are the gateway's own addresses, as clients reach it.
	own(name string) []string
	// addresses are those that a name has now, or one word why it has none.
	addresses(host string, port uint16, service *configs.Service) []string
	// proxied names the company proxy that host:port is reached through; "" when it is reached directly.
	proxied(host string, port uint16) string
	// resolvers are the system's DNS servers.
	resolvers() []string
}

// lookupTimeout bounds each name: the sheet is for people who wait.
const lookupTimeout = 3 * time.Second

// nameLookup asks DNS the way the gateway does.
type nameLookup struct {
	ctx   context.Context
	cfg   *configs.Config
	names *gateway.Names
}

func (l *nameLookup) own(name string) []string {
	var fixed []string
	for _, a := range l.cfg.Listen.HTTPS {
		if host, _, err := net.SplitHostPort(a); err == nil && host != "" {
			fixed = append(fixed, host)
		}
	}
	if len(fixed) > 0 {
		return fixed
	}
	ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return []string{"does not resolve on this machine"}
	}
	return found
}

func (l *nameLookup) addresses(host string, port uint16, service *configs.Service) []string {
	if strings.HasPrefix(host, "*") {
		return []string{"every name below it"}
	}
	ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
	defer cancel()
	found, err := l.names.Resolve(ctx, host, port, service)
	var refused interface{ Status() string }
	switch {
	case errors.As(err, &refused) && refused.Status() == "err_policy":
		return []string{"refused: see hafen doctor"}
	case err != nil:
		return []string{"does not resolve"}
	}
	var all []string
	for _, ap := range found {
		all = append(all, ap.Addr().String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (l *nameLookup) proxied(host string, port uint16) string {
	if proxy, through := l.names.ThroughProxy(host, port); through {
		return proxy.Addr
	}
	return ""
}

// resolvers reads the system's own; a resolver on this machine has servers of its own that we can't know.
func (l *nameLookup) resolvers() []string {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) == 2 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsLoopback() {
				all = append(all, a.String())
			}
		}
	}
	return all
}
