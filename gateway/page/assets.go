package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed web
var web embed.FS

// AssetPath is where Assets is mounted.
const AssetPath = "/assets/"

// FileSet is a folder of scripts, stylesheets and pictures, served under a path that contains the hash of all of them:
// one file that changes gives every file a new address, so that scripts may import each other by relative names.
type FileSet struct {
	prefix string // with the hash, ending in a slash
	root   string // the path without the hash, ending in a slash
	files  map[string][]byte
}

// types are the kinds of files that are assets; all others stay inside.
var types = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
	".png": "image/png",
}

// NewFileSet collects the assets in a folder of fsys, to be mounted at root ("/precall/assets/").
func NewFileSet(fsys fs.FS, dir, root string) (*FileSet, error) {
	s := &FileSet{root: root, files: map[string][]byte{}}
	sum := sha256.New()
	err := fs.WalkDir(fsys, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || types[path.Ext(name)] == "" {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, dir+"/")
		s.files[name] = data
		_, _ = fmt.Fprintf(sum, "%s %d\n", name, len(data)) // a hash never fails
		_, _ = sum.Write(data)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("assets of %s: %w", root, err)
	}
	s.prefix = root + hex.EncodeToString(sum.Sum(nil))[:16] + "/"
	return s, nil
}

// URL is the address of a file of the set; "" when there is no such file.
func (s *FileSet) URL(name string) string {
	if _, ok := s.files[name]; !ok {
		return ""
	}
	return s.prefix + name
}

// ServeHTTP answers with a file, which may be kept for ever: its address changes with it. A page of the version before
// that is still open asks under the hash it knows; it gets 404 rather than a mixture of two versions.
func (s *FileSet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	Headers(w.Header())
	name, ok := strings.CutPrefix(r.URL.Path, s.prefix)
	data, found := s.files[name]
	if !ok || !found {
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Files are only read.", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Content-Type", types[path.Ext(name)])
	_, _ = w.Write(data) // the reader may be gone
}

// own is what is embedded here, read once: it can't change and can't be missing.
var own = sync.OnceValues(func() (*FileSet, error) { return NewFileSet(web, "web", AssetPath) })

// Assets serves the shared stylesheet and the sign below AssetPath.
func Assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		set, err := own()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		set.ServeHTTP(w, r)
	})
}
