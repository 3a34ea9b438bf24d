package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway/forward"
)

// errPACUnfit is --verify's verdict when something does not reach us.
var errPACUnfit = errors.New("the PAC file does not send all of the call services to this gateway: paste the lines of hafen pac --snippet into it")

// verifyPAC runs somebody else's PAC file for everything that browsers will ask for in a call, and prints a line for
// each: does it reach a gateway, and are the gateways' own names left alone?
func verifyPAC(ctx context.Context, w world, cfg *configs.Config, where string, client netip.Addr) error {
	text, err := readPAC(ctx, w, where)
	if err != nil {
		return fmt.Errorf("pac: %s: %w", where, err)
	}
	engine, err := newPACEngine(text, client)
	if err != nil {
		return fmt.Errorf("pac: %s: %w", where, err)
	}
	failed := false
	say := func(verdict, address, answer, why string) {
		failed = failed || verdict == "FAIL"
		fmt.Fprintf(w.stdout, "%-4s  %-52s %s%s\n", verdict, address, answer, why)
	}
	for _, address := range forward.ServiceURLs(cfg) {
		answer, err := engine.find(address)
		if err != nil {
			say("FAIL", address, "", err.Error())
			continue
		}
		verdict, why := judgeService(cfg, answer)
		say(verdict, address, oneLine(answer), why)
	}
	for _, address := range forward.OwnURLs(cfg) {
		answer, err := engine.find(address)
		if err != nil {
			say("FAIL", address, "", err.Error())
			continue
		}
		verdict, why := judgeOwn(cfg, answer)
		say(verdict, address, oneLine(answer), why)
	}
	if failed {
		return errPACUnfit
	}
	return nil
}

func judgeService(cfg *configs.Config, answer string) (verdict, why string) {
	switch forward.Reaches(cfg, answer) {
	case forward.ReachFirst:
		return "OK", ""
	case forward.ReachLater:
		return "WARN", "  (the gateway comes after another, and is tried only when that one can't be reached)"
	case forward.ReachPort:
		return "FAIL", "  (the gateway does not listen at that port in that manner)"
	}
	return "FAIL", "  (does not reach the gateway)"
}

func judgeOwn(cfg *configs.Config, answer string) (verdict, why string) {
	switch {
	case strings.HasPrefix(strings.TrimSpace(answer), "DIRECT"):
		return "OK", ""
	case forward.Reaches(cfg, answer) != forward.ReachNever:
		return "FAIL", "  (the gateway's own pages through the gateway's proxy: refused; it has to be DIRECT)"
	}
	return "WARN", "  (the gateway's own pages through another proxy: better DIRECT)"
}

// oneLine keeps what somebody else's file answers from writing over a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// maxPACFile bounds what is read of a PAC file, as the gateway does with a parent.
const maxPACFile = 1 << 20

// readPAC reads a PAC file: a URL, a file's name, or - for standard input.
func readPAC(ctx context.Context, w world, where string) ([]byte, error) {
	if strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		return fetchPAC(ctx, where)
	}
	if where == "-" {
		return readMost(w.stdin)
	}
	f, err := os.Open(where)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readMost(f)
}

func fetchPAC(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment: this asks for the house's own
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("its server answered %s", res.Status)
	}
	return readMost(res.Body)
}

func readMost(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPACFile+1))
	if err == nil && len(text) > maxPACFile {
		err = fmt.Errorf("it is larger than %d KiB", maxPACFile>>10)
	}
	return text, err
}
