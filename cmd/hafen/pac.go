package main

import (
	"context"
	"fmt"
	"net/netip"

	"hafen/gateway/certs"
	"hafen/gateway/forward"
)

// pac prints the PAC file that the configuration makes, or what it answers for a URL.
func pac(_ context.Context, w world, args []string) error {
	fs := flags(w, "pac")
	file := fs.String("config", "", "configuration `file`")
	address := fs.String("url", "", "answer for this `URL` as a browser would get it")
	client := fs.String("client", "", "for a client at this `address`")
	snippet := fs.Bool("snippet", false, "lines for the company's own PAC file")
	verify := fs.String("verify", "", "does the company's own PAC, a `file or URL`, reach the gateway?")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	if *snippet || *verify != "" {
		return fmt.Errorf("hafen pac --snippet and --verify are not available yet: %w", errUsage)
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	addr := netip.Addr{}
	if *client != "" {
		if addr, err = netip.ParseAddr(*client); err != nil {
			return fmt.Errorf("pac: --client %s is no address: write 10.1.2.3: %w", *client, errUsage)
		}
	}
	text, err := forward.RenderPAC(forward.PACInput{Config: cfg, Client: addr})
	if err != nil {
		return err
	}
	if *address == "" {
		_, err = w.stdout.Write(text)
		return err
	}
	return fmt.Errorf("hafen pac --url is not available yet: %w", errUsage)
}

// root prints the root of the self-signed authority, for GPO, Intune or MDM.
func root(_ context.Context, w world, args []string) error {
	fs := flags(w, "ca")
	file := fs.String("config", "", "configuration `file`")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	if cfg.TLS.Source != "self-signed" {
		return fmt.Errorf("tls.source is %s: only self-signed has a root of its own", cfg.TLS.Source)
	}
	store, err := certs.New(certs.Options{Config: cfg})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	_, err = w.stdout.Write(store.Root())
	return err
}
