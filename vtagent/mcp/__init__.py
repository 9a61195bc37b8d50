"""`vtagent mcp`: the tools look, zoom_image, ask and savings for agents that speak MCP, over images in named folders.

- `folders`: which files may be read, and what they are called.
- `viewing`: what an agent is shown, in words and pixels. Knows nothing of MCP.
- `server`: the tools as MCP has them, over stdio or HTTP.

`vtagent.mcp_command` composes them with a model that answers questions.
"""
