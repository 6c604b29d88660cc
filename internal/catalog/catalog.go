// Package catalog finds databases and relations in the files of a cluster that does not run: by the catalogs of
// PostgreSQL 13 to 18, read page by page.
//
// The files may be those of a backup, which were read while they changed, and whose log was not replayed. So of a row
// there may be several versions, or none; what cannot be told for certain is an error that says what there is.
// It does not know where the files are, nor what is in the tables of users.
package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// File is an open file of a cluster.
type File interface {
	io.ReaderAt
	io.Closer
}

// Options say where the files are. Open, Major and Tablespace are required.
type Options struct {
	// Open opens a file by its path below the data directory, and tells its size in bytes. One that is not there is
	// fs.ErrNotExist.
	Open func(path string) (File, int64, error)
	// Tablespace returns the path of the directory in which a tablespace has its databases, such as
	// pg_tblspc/16400/PG_18_202506291.
	Tablespace func(oid uint32) (string, error)

	Major     int     // of PostgreSQL
	Checksums bool    // pages have checksums
	Start     wal.LSN // of the backup: a page that was changed later may be half of an older one
}

// Catalogs are the catalogs of a cluster.
type Catalogs struct {
	o      Options
	layout layout
	xact   map[[2]uint32][]byte // pages of pg_xact that were read, by segment and page
	torn   int
}

// layout is where columns are in rows, in bytes.
//
// Source: src/include/catalog/pg_class.h and pg_database.h, PostgreSQL 13 to 18.
type layout struct {
	databaseTablespace int // dattablespace
	toast              int // reltoastrelid, before relhasindex, relisshared, relpersistence and relkind
}

// OIDs of catalogs and what is in them.
//
// Source: src/include/catalog/pg_class.h, pg_database.h, pg_namespace.h and pg_namespace.dat, PostgreSQL 18.
const (
	classRelation     = 1259
	databaseRelation  = 1262
	namespaceRelation = 2615
	toastNamespace    = 99
)

// Open returns the catalogs of a cluster, of which nothing is read yet.
func Open(o Options) (*Catalogs, error) {
	c := &Catalogs{o: o, layout: layout{databaseTablespace: 92, toast: 108}, xact: make(map[[2]uint32][]byte)}
	switch {
	case o.Major < 13 || o.Major > 18:
		return nil, usererr.Hinted("Files are found by their paths.", "the catalogs of PostgreSQL %d are not known, but those of 13 to 18", o.Major)
	case o.Major < 15:
		c.layout.databaseTablespace = 224
	case o.Major == 18:
		c.layout.toast = 112
	}
	return c, nil
}

// Torn returns how many pages were found that were being written while they were read, so that rows may be missing.
func (c *Catalogs) Torn() int { return c.torn }

// Database is a database of the cluster.
type Database struct {
	OID        uint32
	Name       string
	Tablespace uint32 // where its relations are that do not say where they are
}

// Dir returns where in a tablespace the database has its relations.
func (c *Catalogs) dir(tablespace, database uint32) (string, error) {
	switch tablespace {
	case pgdata.GlobalTablespace:
		return "global", nil
	case pgdata.DefaultTablespace:
		return "base/" + number(database), nil
	}
	dir, err := c.o.Tablespace(tablespace)
	return dir + "/" + number(database), err
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// Databases returns the databases there are. Of one whose row has several versions it is the newest.
func (c *Catalogs) Databases() ([]Database, error) {
	shared, err := c.relationMap("global")
	if err != nil {
		return nil, err
	}
	var found []Database
	var versions []tuple
	err = c.scan("global/"+number(shared[databaseRelation]), func(t tuple) error {
		if len(t.data) < c.layout.databaseTablespace+4 {
			return errPage
		}
		d := Database{OID: uint32At(t.data, 0), Name: nameAt(t.data, 4), Tablespace: uint32At(t.data, c.layout.databaseTablespace)}
		t.data = nil
		for i := range found {
			if found[i].OID == d.OID {
				if t.isNewer(versions[i]) {
					found[i], versions[i] = d, t
				}
				return nil
			}
		}
		found, versions = append(found, d), append(versions, t)
		return nil
	})
	return found, err
}

// Database returns a database by its name.
func (c *Catalogs) Database(name string) (Database, error) {
	all, err := c.Databases()
	if err != nil {
		return Database{}, err
	}
	var names []string
	var found []Database
	for _, d := range all {
		names = append(names, strconv.Quote(d.Name))
		if d.Name == name {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return Database{}, usererr.Hinted("There are "+strings.Join(names, ", ")+".", "there is no database \"%s\" in the backup%s", name, c.doubt())
	case 1:
		return found[0], nil
	}
	var oids []string
	for _, d := range found {
		oids = append(oids, number(d.OID))
	}
	return Database{}, usererr.Hinted("Files are found by their paths, below base/OID: one of them was dropped or renamed meanwhile.",
		"while the backup was made there were several databases \"%s\", of the OIDs %s", name, strings.Join(oids, ", "))
}

// doubt says for messages that rows may be missing.
func (c *Catalogs) doubt() string {
	if c.torn == 0 {
		return ""
	}
	return fmt.Sprintf(", as far as its catalogs can be read: pages of them were being written while it was made, %d of those that were read", c.torn)
}

// relationMap reads the map in a directory.
func (c *Catalogs) relationMap(dir string) (relationMap, error) {
	path := dir + "/pg_filenode.map"
	content, err := c.read(path, 1024)
	if err != nil {
		return nil, err
	}
	m, err := parseRelationMap(content)
	if err != nil {
		return nil, fmt.Errorf("\"%s\": %w", path, err)
	}
	return m, nil
}

// read reads a whole file of so many bytes at most.
func (c *Catalogs) read(path string, most int64) (content []byte, err error) {
	f, size, err := c.o.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	content = make([]byte, min(size, most))
	if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return content, nil
}

// scanPages is how many pages are read at once.
const scanPages = 16

// scan calls yield with the rows of a table that are there, by the path of its first file.
func (c *Catalogs) scan(path string, yield func(tuple) error) error {
	for segment := uint32(0); ; segment++ {
		name := path
		if segment > 0 {
			name += "." + number(segment)
		}
		f, size, err := c.o.Open(name)
		if segment > 0 && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = c.scanFile(f, size, segment, yield)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("read \"%s\": %w", name, err)
		}
		if size < pgdata.SegmentPages*pgdata.PageSize {
			return nil
		}
	}
}

// scanFile is scan of one file.
func (c *Catalogs) scanFile(f io.ReaderAt, size int64, segment uint32, yield func(tuple) error) error {
	buffer := make([]byte, scanPages*pgdata.PageSize)
	for at := int64(0); at+pgdata.PageSize <= size; {
		b := buffer[:min(int64(len(buffer)), (size-at)/pgdata.PageSize*pgdata.PageSize)]
		if n, err := f.ReadAt(b, at); n < len(b) {
			return err
		}
		for ; len(b) > 0; b = b[pgdata.PageSize:] {
			block := segment*pgdata.SegmentPages + uint32(at/pgdata.PageSize)
			if err := c.scanPage(pgdata.Page(b[:pgdata.PageSize]), block, yield); err != nil {
				return fmt.Errorf("block %d: %w", block, err)
			}
			at += pgdata.PageSize
		}
	}
	return nil
}

// errChecksum is a page whose checksum is wrong, although it was not being written.
var errChecksum = errors.New("its checksum is wrong")

// scanPage is scan of one page. Of one that may be half of an older one what makes no sense is left out.
func (c *Catalogs) scanPage(p pgdata.Page, block uint32, yield func(tuple) error) error {
	isTorn := false
	if c.o.Checksums && !p.IsNew() && p.Checksum() != p.ComputeChecksum(block) {
		if p.LSN() < c.o.Start {
			return errChecksum
		}
		isTorn = true
		c.torn++
	}
	err := parsePage(p, func(t tuple) error {
		ok, err := t.isLive(c.committed)
		if err != nil || !ok {
			return err
		}
		return yield(t)
	})
	if isTorn && errors.Is(err, errPage) {
		return nil
	}
	return err
}

// xactKept is how many pages of pg_xact are kept in memory.
const xactKept = 256

// committed looks into pg_xact.
func (c *Catalogs) committed(xid uint32) (bool, error) {
	segment, page, at, shift := transactionPlace(xid)
	key := [2]uint32{segment, page}
	content, ok := c.xact[key]
	if !ok {
		path := fmt.Sprintf("pg_xact/%04X", segment)
		f, _, err := c.o.Open(path)
		if err != nil {
			return false, fmt.Errorf("whether transaction %d was committed: %w", xid, err)
		}
		content = make([]byte, pgdata.PageSize)
		n, err := f.ReadAt(content, int64(page)*pgdata.PageSize)
		if n == 0 { // it was not there yet, when the file was read
			content = make([]byte, pgdata.PageSize)
		}
		if closed := f.Close(); err == nil || errors.Is(err, io.EOF) {
			err = closed
		}
		if err != nil {
			return false, err
		}
		if len(c.xact) >= xactKept {
			clear(c.xact)
		}
		c.xact[key] = content
	}
	return content[at]>>shift&3 == statusCommitted, nil
}

func uint32At(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

// nameAt returns a value of the type name.
func nameAt(b []byte, at int) string {
	name, _, _ := bytes.Cut(b[at:at+maxName+1], []byte{0})
	return string(name)
}
