package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"hafen/configs"
	"hafen/gateway/certs"
	"hafen/gateway/forward"
)

// pac prints the PAC file that the configuration makes, what it answers for a URL, the lines for the company's own, or
// whether that one reaches us.
func pac(ctx context.Context, w world, args []string) error {
	fs := flags(w, "pac")
	file := fs.String("config", "", "configuration `file`")
	address := fs.String("url", "", "answer for this `URL` as a browser would get it")
	client := fs.String("client", "", "for a client at this `address`")
	snippet := fs.Bool("snippet", false, "lines for the company's own PAC file")
	verify := fs.String("verify", "", "does the company's own PAC, a `file or URL`, reach the gateway?")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	if *snippet && (*verify != "" || *address != "") || *verify != "" && *address != "" {
		return fmt.Errorf("pac: say one of --url, --snippet and --verify: %w", errUsage)
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	in := forward.PACInput{Config: cfg, OmitHTTPS: cfg.TLS.Source == "self-signed"} // as the gateway serves it
	if *client != "" {
		if in.Client, err = netip.ParseAddr(*client); err != nil {
			return fmt.Errorf("pac: --client %s is no address: write 10.1.2.3: %w", *client, errUsage)
		}
	}
	switch {
	case *snippet:
		text, err := forward.RenderSnippet(in)
		if err != nil {
			return err
		}
		_, err = w.stdout.Write(text)
		return err
	case *verify != "":
		return verifyPAC(ctx, w, cfg, *verify, in.Client)
	}
	return showPAC(ctx, w, in, *address)
}

// showPAC prints the file, or what it answers for address.
func showPAC(ctx context.Context, w world, in forward.PACInput, address string) (err error) {
	if in.Parent, err = parentOf(ctx, in.Config); err != nil {
		return err
	}
	text, err := forward.RenderPAC(in)
	if err != nil {
		return err
	}
	if address == "" {
		_, err = w.stdout.Write(text)
		return err
	}
	engine, err := newPACEngine(text, in.Client)
	if err != nil {
		return err
	}
	answer, err := engine.find(address)
	if err != nil {
		return fmt.Errorf("pac: %w", err)
	}
	fmt.Fprintln(w.stdout, oneLine(answer))
	return nil
}

// parentOf is the company's own PAC file as the running gateway has it, or, where none runs here, as it can be fetched.
func parentOf(ctx context.Context, cfg *configs.Config) (*forward.Parent, error) {
	parent, err := forward.ReadParent(cfg)
	if parent != nil || cfg.PAC.Parent == "" {
		return parent, err
	}
	parent, err = forward.FetchParent(ctx, cfg, (&net.Dialer{}).DialContext)
	if err != nil {
		return nil, fmt.Errorf("pac.parent: %w", err)
	}
	return parent, nil
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
