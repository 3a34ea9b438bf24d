package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// key tells rules apart across sheets: what a firewall matches on, but for the addresses that names have.
func (r fwRule) key() string {
	return strings.Join([]string{r.From, r.To, r.Protocol, r.Ports}, "|")
}

// far is the far end with the addresses that it has now.
func (r fwRule) far() string {
	if len(r.Addresses) == 0 {
		return r.To
	}
	return r.To + " (" + strings.Join(r.Addresses, ", ") + ")"
}

func (r fwRule) service() string {
	if r.Ports == "any" {
		return r.Protocol
	}
	return r.Protocol + " " + r.Ports
}

// writeText is for reading in a terminal.
func (s ruleSheet) writeText(out io.Writer) {
	fmt.Fprintf(out, "Firewall rules for %s, %s: %d lines. Stateful: answers come back in.\n", s.Gateway, s.Made.Format(time.DateOnly), len(s.Rules))
	for _, r := range s.Rules {
		fmt.Fprintf(out, "\n%2d  %s → %s   %s   %s\n", r.Number, r.FromZone, r.ToZone, r.service(), r.Application)
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, line := range r.lines() {
			fmt.Fprintf(t, "    %s\t%s\n", line[0], line[1])
		}
		_ = t.Flush()
	}
}

func (r fwRule) lines() [][2]string {
	lines := [][2]string{{"from", r.From}, {"to", r.far()}}
	if r.Application != "none" {
		lines = append(lines,
			[2]string{"settings", fmt.Sprintf("TLS inspection: %s; idle time-out: %s; NAT: %s; QoS: %s", r.Inspection, r.Idle, r.NAT, r.QoS)})
	}
	return append(lines, [2]string{"why", r.Why}, [2]string{"without", r.Without})
}

// writeTicket is plain text that survives any ticket system: no columns, no long lines of spaces.
func (s ruleSheet) writeTicket(out io.Writer) {
	fmt.Fprintf(out, "Please open the firewall for the video call gateway %s (as of %s).\n", s.Gateway, s.Made.Format(time.DateOnly))
	fmt.Fprintln(out, "The rules are stateful. Where a name and its addresses are given, the name counts: addresses are those of today.")
	for _, r := range s.Rules {
		action := "Allow"
		if r.Application == "none" {
			action = "Deny"
		}
		fmt.Fprintf(out, "\nRule %d: %s %s from %s [%s] to %s [%s]\n", r.Number, action, r.service(), r.From, r.FromZone, r.far(), r.ToZone)
		if action == "Allow" {
			fmt.Fprintf(out, "- Application: %s\n- TLS inspection: %s\n- Idle time-out: %s\n- NAT: %s\n- QoS: %s\n", r.Application, r.Inspection, r.Idle, r.NAT, r.QoS)
		}
		fmt.Fprintf(out, "- Why: %s\n- Without it: %s\n", r.Why, r.Without)
	}
}

// writeCSV has one line for each rule under a head.
func (s ruleSheet) writeCSV(out io.Writer) error {
	w := csv.NewWriter(out)
	rows := [][]string{{
		"number", "from_zone", "from", "to_zone", "to", "addresses", "protocol", "ports", "application", "tls_inspection", "idle_timeout", "nat", "qos", "why", "without",
	}}
	for _, r := range s.Rules {
		rows = append(rows, []string{
			strconv.Itoa(r.Number), r.FromZone, r.From, r.ToZone, r.To, strings.Join(r.Addresses, " "), r.Protocol, r.Ports, r.Application,
			r.Inspection, r.Idle, r.NAT, r.QoS, r.Why, r.Without,
		})
	}
	return w.WriteAll(rows)
}

// writeSheetDiff says what has changed from one sheet to the next, and fails without a word when anything has.
func writeSheetDiff(out io.Writer, before, now ruleSheet) error {
	changes := sheetDiff(before, now)
	if len(changes) == 0 {
		fmt.Fprintf(out, "Nothing has changed since %s.\n", before.Made.Format(time.DateOnly))
		return nil
	}
	fmt.Fprintf(out, "Changed since %s:\n", before.Made.Format(time.DateOnly))
	for _, c := range changes {
		fmt.Fprintln(out, c)
	}
	return errSilent
}

// sheetDiff has a line for each rule that came (+), went (-) or whose far end has other addresses (~).
func sheetDiff(before, now ruleSheet) []string {
	old := make(map[string]fwRule, len(before.Rules))
	for _, r := range before.Rules {
		old[r.key()] = r
	}
	var changes []string
	line := func(sign string, r fwRule) string {
		return fmt.Sprintf("%s %s from %s to %s: %s", sign, r.service(), r.From, r.far(), r.Why)
	}
	for _, r := range now.Rules {
		was, there := old[r.key()]
		delete(old, r.key())
		switch {
		case !there:
			changes = append(changes, line("+", r))
		case !slices.Equal(was.Addresses, r.Addresses):
			changes = append(changes, fmt.Sprintf("~ %s to %s: %s → %s", r.service(), r.To, strings.Join(was.Addresses, ", "), strings.Join(r.Addresses, ", ")))
		}
	}
	for _, r := range before.Rules {
		if _, gone := old[r.key()]; gone {
			changes = append(changes, line("-", r))
		}
	}
	return changes
}
