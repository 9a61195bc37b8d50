"""Files of pages: PDFs and multi-page TIFFs. A page is an image of the store, drawn only when it is looked at."""
